/* Floats of at most 8 bits as their codes, converted to and from float. After rare.h; reference/formats.py cites the formats.
 *
 * A code is a sign, an exponent field e and m bits of mantissa f: (1 + f 2^-m) 2^(e - bias), or f 2^(1 - bias - m) where e = 0.
 * All parameters are constants, so that each call folds to the few instructions its format needs. */
#ifndef TEMPER_FORMATS_H
#define TEMPER_FORMATS_H

/* `largest`: code of the largest finite number; codes above it are NaN, one of them `infinity` where there is one (else -1).
 * unsigned_zero: the code of -0 is the only NaN. */
INLINE float mini_f(uint8_t c, int bits, int m, int bias, int largest, int infinity, int unsigned_zero) {
  const int sign = 1 << (bits - 1), code = c & (sign - 1), e = code >> m, f = code & ((1 << m) - 1);
  float r = e ? f_bits((uint32_t)(e - bias + 127) << 23 | (uint32_t)f << (23 - m))
              : (float)f * f_bits((uint32_t)(128 - bias - m) << 23);
  if (unsigned_zero ? c == sign : code > largest) r = code == infinity ? V_INF : V_NAN;
  return c & sign ? -r : r;
}

/* Nearest code, ties to even. over: code of what lies beyond `largest`, infinity included; nan: code of NaN, -1 if there is none. */
INLINE uint8_t f_mini(float x, int bits, int m, int bias, int largest, int over, int nan, int unsigned_zero) {
  const uint32_t b = bits_f(x), a = b & 0x7fffffff;
  int code, sign = (int)(b >> 31);
  if (a > 0x7f800000) {
    code = nan < 0 ? 0 : nan;
    if (nan < 0) sign = 0;
  } else {
    int e = (int)(a >> 23) - 127;
    if (e < 1 - bias) e = 1 - bias;
    /* mantissa in units of the last bit; one number counts normal and subnormal codes alike, so a carry reaches the exponent */
    const float t = a == 0x7f800000 ? 0 : f_bits(a) * f_bits((uint32_t)(127 + m - e) << 23);
    code = (int)((t + 0x1p23f) - 0x1p23f) + ((e - 1 + bias) << m);
    if (code > largest || a == 0x7f800000) code = over;
  }
  if (unsigned_zero && (code == 0 || code == nan)) sign = 0;
  return (uint8_t)(code | sign << (bits - 1));
}

/* float8e8m0: 2^(c - 127), 255 is NaN. */
INLINE float scale_f(uint8_t c) { return c == 255 ? V_NAN : c ? f_bits((uint32_t)c << 23) : f_bits(0x400000); }

/* The power of two of |x|; least: the mantissa from which it is rounded up (2^23: never, 1: always, 2^22: from halfway). */
INLINE uint8_t f_scale(float x, int saturate, uint32_t least) {
  const uint32_t a = bits_f(x) & 0x7fffffff, f = a & 0x7fffff;
  if (a > 0x7f800000) return 255;
  if (a == 0x7f800000) return saturate ? 254 : 255;
  if (a < 0x400000) return saturate ? 0 : 255;
  uint32_t e = a >> 23;
  /* below 2^-126 the leading bit is stored: 2^-127 is 2^22, and half of what follows counts */
  e += e ? f >= least : f - 0x400000 >= (least + 1) / 2;
  return (uint8_t)(e == 255 && saturate ? 254 : e);
}
#endif
