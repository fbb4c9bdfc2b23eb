/* Batched matrix product of codes with a right operand that is known only at run time: one entry packs it, the next multiplies.
 *
 * Defined by the tactic: ENTRY_PACK ENTRY; ROWS_M COLS_K BATCH B_COUNT IMG_ROWS LDA LDB (may read v[]) and a_matrix(i, v),
 * b_matrix(i, v): which matrix of A and B output matrix i uses; static: in_t COLS_N TURN (1: signed bytes of A are made unsigned) OFFSET
 * (what words of A are more than the values they stand for) OLD and tile.h's macros; P_A P_B P_OUT P_SHARED P_WS: positions in p.
 * Packed B: [matrix][block][K in words][nb*VL], then -OFFSET times the sums of the columns: [matrix][NV*VL]. */

#define NV ((COLS_N + VL - 1) / VL)
#define NBLK ((NV + NB - 1) / NB)
#if TERMS == BYTES
typedef uint8_t cell_t;
#define PER 4
#define CELL 255
#else
typedef int16_t cell_t;
#define PER 2
#define CELL 65535
#endif
#define WORDS(k) (((k) + PER - 1) / PER)
#define PANEL_LD(words) ((((words) + VL + 15) / 16 | 1) * 16)

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

INLINE void tile(const job_t *q, const int mr, const int nb, const int nl, const int64_t lda, const int copied, const int part) {
  (void)copied;
  acc_t acc[MR][NB];
  const char *next = q->next;
  start(acc, q, mr, nb, nl);
  terms(acc, q->a, lda, q->b, q->len, &next, mr, nb);
  store(acc, q, mr, nb, nl, part);
}

VARIANT(tile_full, MR, 4 * q->row_step, 0, 0)
VARIANT(tile_part, MR, 4 * q->row_step, 1, 1)

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

EXPORT void ENTRY(void *const *p, const int64_t *v, int32_t part, int32_t parts) {
  (void)v;
  const int64_t rows = ROWS_M, k = COLS_K, words = WORDS(k), lda = LDA;
  const int64_t row_tiles = (rows + MR - 1) / MR, units = (int64_t)(BATCH) * row_tiles;
  const in_t *a = p[P_A];
  const int32_t *packed = p[P_SHARED], *sums = packed + (int64_t)(B_COUNT) * NV * VL * words;
  float *panel = p[P_WS];
  epi_t e;
  epi_init(&e, p);
  int64_t u0 = 0, u1 = units, j0 = 0, j1 = NBLK;
  if (units >= 4 * parts || NBLK < parts) share(units, part, parts, &u0, &u1);
  else share(NBLK, part, parts, &j0, &j1);
  for (int64_t u = u0; u < u1; u++) {
    const int64_t matrix = u / row_tiles, first = u % row_tiles * MR, of_b = b_matrix(matrix, v);
    const int32_t *b = packed + of_b * NV * VL * words;
    const in_t *from = a + (a_matrix(matrix, v) * rows + first) * lda;
    job_t q;
    q.e = &e;
    q.out = p[P_OUT];
    q.img_rows = IMG_ROWS;
    q.pix = matrix * rows + first;
    q.len = words;
    q.valid = (int32_t)(rows - first < MR ? rows - first : MR);
    q.a = panel;
    q.row_step = PANEL_LD(words);
    for (int i = 0; i < q.valid; i++) row_words(panel + i * q.row_step, from + i * lda, k);
    for (int i = q.valid; i < MR; i++) clear(panel + i * q.row_step, words, 0);
    for (int64_t j = j0; j < j1; j++) {
      q.b = (const float *)(b + j * NB * VL * words);
      q.c = j * NB * VL;
      q.bias = (const float *)(sums + of_b * NV * VL + q.c);
      q.next = (const char *)q.b;
      if (q.valid < MR) CALL(tile_part);
      else CALL(tile_full);
    }
  }
}
