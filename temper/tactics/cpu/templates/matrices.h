/* What matrix products share whose right operand is known only at run time: the tile, and the walk over output matrices. Needs tile.h.
 *
 * Defined by the tactic: ENTRY; ROWS_M COLS_K BATCH IMG_ROWS LDA (may read v[]) and the functions a_matrix(i, v), b_matrix(i, v): which
 * matrix of A and B output matrix i uses; static: COLS_N OLD and tile.h's macros; P_A P_B P_OUT P_SHARED P_WS: positions in p.
 * Defined by the template: in_t; PER elements of A in a word; take_rows(q, from, lda, k, panel): points q->a and q->row_step (in words) to
 * q->valid rows of A, and to all MR where `tile_part` needs them. Packed B: [matrix][block][K in words][nb*VL], and with BIAS a row of
 * NV * VL for each matrix behind all of them. */
#define NV ((COLS_N + VL - 1) / VL)
#define NBLK ((NV + NB - 1) / NB)
#define WORDS(k) (((k) + PER - 1) / PER)
/* An odd number of cache lines between rows of a panel. */
#define PANEL_LD(words) ((((words) + VL + 15) / 16 | 1) * 16)

INLINE void take_rows(job_t *q, const in_t *from, int64_t lda, int64_t k, float *panel);

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
  const int64_t rows = ROWS_M, k = COLS_K, words = WORDS(k), lda = LDA;
  const int64_t row_tiles = (rows + MR - 1) / MR, units = (int64_t)(BATCH) * row_tiles;
  const in_t *a = p[P_A];
  const float *packed = p[P_SHARED];
  epi_t e;
  epi_init(&e, p);
  int64_t u0 = 0, u1 = units, j0 = 0, j1 = NBLK;
  if (units >= 4 * parts || NBLK < parts) share(units, part, parts, &u0, &u1);
  else share(NBLK, part, parts, &j0, &j1);
  for (int64_t u = u0; u < u1; u++) {
    const int64_t matrix = u / row_tiles, first = u % row_tiles * MR, of_b = b_matrix(matrix, v);
    const float *b = packed + of_b * NV * VL * words;
    job_t q;
    q.e = &e;
    q.out = p[P_OUT];
    q.img_rows = IMG_ROWS;
    q.pix = matrix * rows + first;
    q.len = words;
    q.valid = (int32_t)(rows - first < MR ? rows - first : MR);
    take_rows(&q, a + (a_matrix(matrix, v) * rows + first) * lda, lda, k, p[P_WS]);
    for (int64_t j = j0; j < j1; j++) {
      q.b = b + j * NB * VL * words;
      q.c = j * NB * VL;
#if BIAS
      q.bias = packed + (int64_t)(B_COUNT) * NV * VL * words + of_b * NV * VL + q.c;
#endif
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
