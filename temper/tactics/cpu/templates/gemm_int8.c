/* Batched matrix product of codes with a right operand that is known only at run time (matrices.h): one entry packs it, the next
 * multiplies.
 *
 * Defined by the tactic besides: ENTRY_PACK; B_COUNT LDB (may read v[]); TURN (1: signed bytes of A are made unsigned), OFFSET (what words
 * of A are more than the values they stand for). Behind the packed B are -OFFSET times the sums of its columns. */
#if TERMS == BYTES
typedef uint8_t cell_t;
#define CELL 255
#else
typedef int16_t cell_t;
#define CELL 65535
#endif

EXPORT void ENTRY_PACK(void *const *p, const int64_t *v, int32_t part, int32_t parts) {
  (void)v;
  const int64_t k = COLS_K, words = WORDS(k), ldb = LDB;
  const int8_t *b = p[P_B];
  int32_t *packed = p[P_SHARED], *sums = packed + (int64_t)(B_COUNT) * NV * VL * words;
  int64_t u0, u1;
  share((int64_t)(B_COUNT) * NBLK, part, parts, &u0, &u1);
  for (int64_t u = u0; u < u1; u++) {
    const int64_t j = u % NBLK, matrix = u / NBLK;
    const int count = NBT && j == NBLK - 1 ? NBT : NB, first = (int)j * NB * VL;
    int32_t *to = packed + (matrix * NV + j * NB) * VL * words;
    const int8_t *from = b + matrix * k * ldb;
    for (int l = 0; l < count; l++) {
      const int64_t c = first + l * VL;
      const int left = COLS_N - c < VL ? (int)(COLS_N - c) : VL;
      vi sum = {};
      for (int64_t i = 0; i < words; i++) {
        vi word = {};
        for (int t = 0; t < PER && i * PER + t < k; t++) {
          const vi x = ld_int8(from + (i * PER + t) * ldb + c, left);
          sum += x;
          word |= (x & splati(CELL)) << (32 / PER * t);
        }
        sti(to + (i * count + l) * VL, word);
      }
      sti(sums + matrix * NV * VL + c, sum * splati(-(OFFSET)));
    }
  }
}

/* A row of k codes as words, zeros behind the last. */
INLINE void row_words(float *words, const in_t *from, int64_t k) {
  cell_t __attribute__((may_alias)) *to = (void *)words;
  int64_t i = 0;
#if TERMS == BYTES
  for (; i + 4 * VL <= k; i += 4 * VL) {
    vi x = ldi(from + i);
    sti(to + i, TURN ? x ^ splati((int32_t)0x80808080) : x);
  }
#endif
  for (; i < k; i++) to[i] = (cell_t)(TURN ? from[i] + 128 : from[i]);
  for (; i < WORDS(k) * PER; i++) to[i] = 0;
}

/* Rows of A as words, those that are missing zeros. */
INLINE void take_rows(job_t *q, const in_t *from, int64_t lda, int64_t k, float *panel) {
  q->a = panel;
  q->row_step = PANEL_LD(WORDS(k));
  for (int i = 0; i < q->valid; i++) row_words(panel + i * q->row_step, from + i * lda, k);
  for (int i = q->valid; i < MR; i++) clear(panel + i * q->row_step, WORDS(k), 0);
}
