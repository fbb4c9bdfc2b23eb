/* Batched matrix product with a right operand that is known only at run time (matrices.h): one entry packs it, the next multiplies.
 *
 * Defined by the tactic besides: ENTRY_PACK; B_COUNT (may read v[]); LDB_EXTRA (elements between rows of B beyond its last axis), TRANS_B. */

EXPORT void ENTRY_PACK(void *const *p, const int64_t *v, int32_t part, int32_t parts) {
  (void)v;
  const int64_t k = COLS_K, ldb = (TRANS_B ? k : COLS_N) + (LDB_EXTRA);
  const float *b = p[P_B];
  float *packed = p[P_SHARED];
  int64_t u0, u1;
  share((int64_t)(B_COUNT) * NBLK, part, parts, &u0, &u1);
  for (int64_t u = u0; u < u1; u++) {
    const int64_t j = u % NBLK, matrix = u / NBLK;
    const int width = (NBT && j == NBLK - 1 ? NBT : NB) * VL, first = (int)j * NB * VL;
    float *to = packed + (matrix * NV + j * NB) * VL * k;
    const float *from = b + matrix * (TRANS_B ? COLS_N : k) * ldb;
    if (TRANS_B) {
      for (int l = 0; l < width; l++) {
        const float *row = from + (first + l) * ldb;
        if (first + l < COLS_N)
          for (int64_t i = 0; i < k; i++) to[i * width + l] = row[i];
        else
          for (int64_t i = 0; i < k; i++) to[i * width + l] = 0.0f;
      }
    } else {
      for (int64_t i = 0; i < k; i++)
        for (int l = 0; l < width; l += VL) {
          const int left = COLS_N - first - l;
          st(to + i * width + l, ldx(from + i * ldb + first + l, left < VL ? left : VL));
        }
    }
  }
}

/* Rows of A as they are, but those of a last tile of unknown height, whose missing ones are zeros. */
INLINE void take_rows(job_t *q, const float *from, int64_t lda, int64_t k, float *panel) {
  (void)k, (void)panel;
  q->a = from;
  q->row_step = lda;
#if MRT < 0
  if (q->valid == MR) return;
  q->a = panel;
  q->row_step = PANEL_LD(k);
  for (int i = 0; i < MR; i++) {
    if (i < q->valid) copy(panel + i * q->row_step, from + i * lda, k);
    else clear(panel + i * q->row_step, k, 0);
  }
#endif
}
