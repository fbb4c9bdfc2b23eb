/* Bytes through a table of 256: y[i] = table[x[i]], COUNT of them.
 *
 * A register of bytes is looked up by its low halves in each of the sixteen rows of the table, and takes what it finds in the row of its high
 * half. What is left after the last register goes one by one. */
#if defined(__AVX512BW__)
#define W 64
typedef __m512i row_t;
INLINE row_t row(const uint8_t *t) { return _mm512_broadcast_i32x4(_mm_loadu_si128((const void *)t)); }
#define LOAD(p) _mm512_loadu_si512(p)
#define STORE(p, v) _mm512_storeu_si512(p, v)
INLINE row_t look(const row_t *rows, row_t x) {
  const row_t nibble = _mm512_set1_epi8(15);
  const row_t low = _mm512_and_si512(x, nibble), high = _mm512_and_si512(_mm512_srli_epi16(x, 4), nibble);
  row_t y = _mm512_shuffle_epi8(rows[0], low);
#pragma clang loop unroll(full)
  for (int h = 1; h < 16; h++) y = _mm512_mask_shuffle_epi8(y, _mm512_cmpeq_epi8_mask(high, _mm512_set1_epi8(h)), rows[h], low);
  return y;
}
#elif defined(__AVX2__)
#define W 32
typedef __m256i row_t;
INLINE row_t row(const uint8_t *t) { return _mm256_broadcastsi128_si256(_mm_loadu_si128((const void *)t)); }
#define LOAD(p) _mm256_loadu_si256((const void *)(p))
#define STORE(p, v) _mm256_storeu_si256((void *)(p), v)
INLINE row_t look(const row_t *rows, row_t x) {
  const row_t nibble = _mm256_set1_epi8(15);
  const row_t low = _mm256_and_si256(x, nibble), high = _mm256_and_si256(_mm256_srli_epi16(x, 4), nibble);
  row_t y = _mm256_shuffle_epi8(rows[0], low);
#pragma clang loop unroll(full)
  for (int h = 1; h < 16; h++)
    y = _mm256_blendv_epi8(y, _mm256_shuffle_epi8(rows[h], low), _mm256_cmpeq_epi8(high, _mm256_set1_epi8(h)));
  return y;
}
#endif

EXPORT void ENTRY(void *const *p, const int64_t *v, int32_t part, int32_t parts) {
  const uint8_t *x = p[0], *t = p[1];
  uint8_t *y = p[2];
  int64_t i, end;
  (void)v;
  share((int64_t)(COUNT), part, parts, &i, &end);
#if defined(W)
  row_t rows[16];
#pragma clang loop unroll(full)
  for (int h = 0; h < 16; h++) rows[h] = row(t + 16 * h);
#pragma clang loop unroll_count(2)
  for (; i + W <= end; i += W) STORE(y + i, look(rows, LOAD(x + i)));
#endif
  for (; i < end; i++) y[i] = t[x[i]];
}
