/* Batched matrix product with a right operand that is known only at run time: one entry packs it, the next multiplies.
 *
 * Defined by the tactic: ENTRY_PACK ENTRY; ROWS_M COLS_K BATCH B_COUNT IMG_ROWS LDA (may read v[]) and the functions a_matrix(i, v),
 * b_matrix(i, v): which matrix of A and B output matrix i uses; static: COLS_N LDB_EXTRA (elements between rows of B beyond its last
 * axis) TRANS_B OLD and tile.h's macros; P_A P_B P_OUT P_SHARED P_WS: positions in p. Packed B: [matrix][block][K][nb*VL]. */

#define NV ((COLS_N + VL - 1) / VL)
#define NBLK ((NV + NB - 1) / NB)
#define PANEL_LD(k) ((((k) + VL + 15) / 16 | 1) * 16)

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

INLINE void tile(const job_t *q, const int mr, const int nb, const int nl, const int64_t lda, const int copied, const int part) {
  (void)copied;
  acc_t acc[MR][NB];
  const char *next = q->next;
  start(acc, q, mr, nb, nl);
  terms(acc, q->a, lda, q->b, q->len, &next, mr, nb);
  store(acc, q, mr, nb, nl, part);
}

VARIANT(tile_full, MR, 4 * q->row_step, 0, 0)
#if MRT > 0
VARIANT(tile_last, MRT, 4 * q->row_step, 0, 0)
#elif MRT < 0
VARIANT(tile_part, MR, 4 * q->row_step, 1, 1)
#endif

EXPORT void ENTRY(void *const *p, const int64_t *v, int32_t part, int32_t parts) {
  (void)v;
  const int64_t rows = ROWS_M, k = COLS_K, lda = LDA, row_tiles = (rows + MR - 1) / MR, units = (int64_t)(BATCH) * row_tiles;
  const float *a = p[P_A], *packed = p[P_SHARED];
  epi_t e;
  epi_init(&e, p);
  int64_t u0 = 0, u1 = units, j0 = 0, j1 = NBLK;
  if (units >= 4 * parts || NBLK < parts) share(units, part, parts, &u0, &u1);
  else share(NBLK, part, parts, &j0, &j1);
  for (int64_t u = u0; u < u1; u++) {
    const int64_t matrix = u / row_tiles, first = u % row_tiles * MR;
    const float *b = packed + b_matrix(matrix, v) * NV * VL * k;
    job_t q;
    q.e = &e;
    q.out = p[P_OUT];
    q.img_rows = IMG_ROWS;
    q.pix = matrix * rows + first;
    q.len = k;
    q.row_step = lda;
    q.valid = (int32_t)(rows - first < MR ? rows - first : MR);
    q.a = a + (a_matrix(matrix, v) * rows + first) * lda;
#if MRT < 0
    if (q.valid < MR) {
      float *panel = p[P_WS];
      q.row_step = PANEL_LD(k);
      for (int i = 0; i < MR; i++) {
        if (i < q.valid) copy(panel + i * q.row_step, q.a + i * lda, k);
        else clear(panel + i * q.row_step, k, 0);
      }
      q.a = panel;
    }
#endif
    for (int64_t j = j0; j < j1; j++) {
      q.b = b + j * NB * VL * k;
      q.c = j * NB * VL;
      q.next = (const char *)q.b;
#if MRT > 0
      if (q.valid < MR) { CALL(tile_last); continue; }
#elif MRT < 0
      if (q.valid < MR) { CALL(tile_part); continue; }
#endif
      CALL(tile_full);
    }
  }
}
