/* Ascon-AEAD128 written from NIST SP 800-232, and Ascon-128 from the v1.2 paper: what numba's code is compared with.
 * Little-endian hosts only. Not for use: it encrypts, and nothing here checks a tag. */
#include <stddef.h>
#include <stdint.h>
#include <string.h>

typedef struct { uint64_t x[5]; } state;

static inline uint64_t rotated(uint64_t x, int n) { return (x >> n) | (x << (64 - n)); }

static inline void permute(state *s, int rounds) {
  uint64_t x0 = s->x[0], x1 = s->x[1], x2 = s->x[2], x3 = s->x[3], x4 = s->x[4];
  for (int i = 12 - rounds; i < 12; i++) {
    x2 ^= 0xF0 - 0x0F * i;
    x0 ^= x4; x4 ^= x3; x2 ^= x1;
    uint64_t y0 = x0 ^ (~x1 & x2), y1 = x1 ^ (~x2 & x3), y2 = x2 ^ (~x3 & x4);
    uint64_t y3 = x3 ^ (~x4 & x0), y4 = x4 ^ (~x0 & x1);
    y1 ^= y0; y0 ^= y4; y3 ^= y2; y2 = ~y2;
    x0 = y0 ^ rotated(y0, 19) ^ rotated(y0, 28);
    x1 = y1 ^ rotated(y1, 61) ^ rotated(y1, 39);
    x2 = y2 ^ rotated(y2, 1) ^ rotated(y2, 6);
    x3 = y3 ^ rotated(y3, 10) ^ rotated(y3, 17);
    x4 = y4 ^ rotated(y4, 7) ^ rotated(y4, 41);
  }
  s->x[0] = x0; s->x[1] = x1; s->x[2] = x2; s->x[3] = x3; s->x[4] = x4;
}

static inline uint64_t word(const uint8_t *at, int big) {
  uint64_t w;
  memcpy(&w, at, 8);
  return big ? __builtin_bswap64(w) : w;
}

static inline void put(uint8_t *at, uint64_t w, int big) {
  if (big) w = __builtin_bswap64(w);
  memcpy(at, &w, 8);
}

/* rate in bytes: 8 or 16; x[0] and x[1] meet the data. */
static inline void seal(const uint8_t *key, const uint8_t *nonce, const uint8_t *ad, size_t ad_size,
                        const uint8_t *in, size_t size, uint8_t *out, uint64_t iv, int rate, int rounds, int big) {
  uint64_t k0 = word(key, big), k1 = word(key + 8, big);
  state s = {{iv, k0, k1, word(nonce, big), word(nonce + 8, big)}};
  uint8_t last[16];
  permute(&s, 12);
  s.x[3] ^= k0; s.x[4] ^= k1;
  if (ad_size) {
    for (; ad_size >= (size_t)rate; ad_size -= rate, ad += rate) {
      for (int i = 0; i < rate / 8; i++) s.x[i] ^= word(ad + 8 * i, big);
      permute(&s, rounds);
    }
    memset(last, 0, 16);
    memcpy(last, ad, ad_size);
    last[ad_size] = big ? 0x80 : 0x01;
    for (int i = 0; i < rate / 8; i++) s.x[i] ^= word(last + 8 * i, big);
    permute(&s, rounds);
  }
  s.x[4] ^= big ? 1 : (uint64_t)1 << 63;
  for (; size >= (size_t)rate; size -= rate, in += rate, out += rate) {
    for (int i = 0; i < rate / 8; i++) {
      s.x[i] ^= word(in + 8 * i, big);
      put(out + 8 * i, s.x[i], big);
    }
    permute(&s, rounds);
  }
  memset(last, 0, 16);
  memcpy(last, in, size);
  last[size] = big ? 0x80 : 0x01;
  for (int i = 0; i < rate / 8; i++) {
    s.x[i] ^= word(last + 8 * i, big);
    put(last + 8 * i, s.x[i], big);
  }
  memcpy(out, last, size);
  out += size;
  s.x[rate / 8] ^= k0; s.x[rate / 8 + 1] ^= k1;
  permute(&s, 12);
  put(out, s.x[3] ^ k0, big);
  put(out + 8, s.x[4] ^ k1, big);
}

void ascon_aead128(const uint8_t *key, const uint8_t *nonce, const uint8_t *ad, size_t ad_size, const uint8_t *in,
                   size_t size, uint8_t *out) {
  seal(key, nonce, ad, ad_size, in, size, out, 0x00001000808C0001, 16, 8, 0);
}

void ascon_128(const uint8_t *key, const uint8_t *nonce, const uint8_t *ad, size_t ad_size, const uint8_t *in,
               size_t size, uint8_t *out) {
  seal(key, nonce, ad, ad_size, in, size, out, 0x80400C0600000000, 8, 6, 1);
}
