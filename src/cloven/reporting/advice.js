"use strict";
// Tables are sorted by their headings: once upwards, again downwards. What is unknown stays last.
for (const table of document.querySelectorAll("table.sortable")) {
  const heads = [...table.tHead.rows[0].cells], body = table.tBodies[0];
  const key = (row, column) => row.cells[column].dataset.value ?? row.cells[column].textContent.trim();
  heads.forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const sign = head.getAttribute("aria-sort") === "ascending" ? -1 : 1;
      for (const other of heads) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", sign > 0 ? "ascending" : "descending");
      const rows = [...body.rows].map(row => [key(row, column), row]);
      rows.sort(([a], [b]) => {
        if (a === "" || b === "") return (a === "") - (b === "");
        const difference = a - b;
        return sign * (Number.isNaN(difference) ? a.localeCompare(b, "en", { numeric: true }) : difference);
      });
      body.append(...rows.map(([, row]) => row));
    });
  });
}
// A dot that is pointed at or has the focus is named below its chart, and marked in every chart.
for (const chart of document.querySelectorAll(".told-by")) {
  const told = chart.querySelector(".told"), usual = told.textContent;
  const say = (event, on) => {
    const dot = event.target.closest("[data-told]");
    if (!dot) return;
    told.textContent = on ? dot.dataset.told : usual;
    const same = `.told-by [data-of="${dot.dataset.of}"]`;
    for (const one of document.querySelectorAll(same)) one.classList.toggle("lit", on);
  };
  for (const name of ["pointerover", "focusin"]) chart.addEventListener(name, event => say(event, true));
  for (const name of ["pointerout", "focusout"]) chart.addEventListener(name, event => say(event, false));
}
// One link's pictures at a time.
const choices = document.querySelector(".choices");
if (choices) {
  const shown = [...document.querySelectorAll("#pictures .album")];
  const choose = index => {
    shown.forEach((album, i) => album.classList.toggle("unchosen", i !== index));
    [...choices.children].forEach((button, i) => button.setAttribute("aria-pressed", i === index));
  };
  [...choices.children].forEach((button, i) => button.addEventListener("click", () => choose(i)));
  choices.hidden = false;
  choose(0);
}
