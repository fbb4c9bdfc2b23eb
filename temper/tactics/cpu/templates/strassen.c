/* Matrix product by one level of Strassen's algorithm ("Gaussian elimination is not optimal", 1969) with a packed right operand.
 *
 * Rows of an image (IMAGE of them) are paired s with s + HALF_M, terms k with k + HALF_K, columns c with c + COLS_N / 2. Of the
 * quadrants a, b, c, d of A (upper left, upper right, lower left, lower right) and e, f, g, h of B, seven products of half the
 * size give those of the result:
 *   1 (a + d)(e + h)   2 (c + d) e   3 a (f - h)   4 d (g - e)   5 (a + b) h   6 (c - a)(e + f)   7 (b - d)(g + h)
 *   upper left 1 + 4 - 5 + 7    upper right 3 + 5    lower left 2 + 4    lower right 1 - 2 + 3 + 6
 * The sums of B are packed at build time. One entry writes the left factors, [product][row][LDS], the other multiplies: for each
 * block of PT * MR row pairs and NB * VL column pairs, the four quadrants of results stay in this thread's workspace while every
 * register tile of products is added to one or two of them.
 *
 * Defined by the tactic: ENTRY_SUMS ENTRY; BATCH IMAGE HALF_M IMG_ROWS (may read v[]); static: COLS_K COLS_N LDA LDS OLD MR NB PT KC
 * UK PFL; P_A P_B P_SHARED P_OUT P_WS: positions in p. Packed B: [block][K block][product][term][NB*VL]. */

#define UNROLL _Pragma("clang loop unroll(full)")
#define HALF_K (COLS_K / 2)
#define HALF_N (COLS_N / 2)
#define W (NB * VL)
#define NBLK (HALF_N / W)
#define ROUND_UP(n, by) (((n) + (by) - 1) / (by) * (by))

/* Left factors of one pair of rows; low is not read where paired is 0. step: elements from one product's factors to the next's. */
INLINE void sums(float *to, int64_t step, const float *top, const float *low, const int paired) {
  for (int k = 0; k < HALF_K; k += VL) {
    const int n = HALF_K - k < VL ? HALF_K - k : VL;
    vf a = ldx(top + k, n), b = ldx(top + HALF_K + k, n);
    vf c = paired ? ldx(low + k, n) : (vf){}, d = paired ? ldx(low + HALF_K + k, n) : (vf){};
    st(to + k, a + d);
    st(to + step + k, c + d);
    st(to + 2 * step + k, a);
    st(to + 3 * step + k, d);
    st(to + 4 * step + k, a + b);
    st(to + 5 * step + k, c - a);
    st(to + 6 * step + k, b - d);
  }
}

EXPORT void ENTRY_SUMS(void *const *p, const int64_t *v, int32_t part, int32_t parts) {
  (void)v;
  const float *a = p[P_A];
  const int64_t half = HALF_M, pairs = (int64_t)(BATCH) * half, padded = ROUND_UP(pairs, MR), step = padded * LDS;
  int64_t lo, hi;
  share(padded, part, parts, &lo, &hi);
  for (int64_t u = lo; u < hi; u++) {
    float *to = (float *)p[P_SHARED] + u * LDS;
    if (u >= pairs) { /* rows that fill the last tile */
      for (int r = 0; r < 7; r++)
        for (int k = 0; k < HALF_K; k += VL) st(to + r * step + k, (vf){});
      continue;
    }
    const int64_t i = u % half;
    const float *top = a + (u / half * (IMAGE) + i) * LDA, *low = top + half * LDA;
    if (i + half < (IMAGE)) sums(to, step, top, low, 1);
    else sums(to, step, top, low, 0);
  }
}

/* One register tile: MR row pairs, NB vectors of column pairs, len terms. */
typedef struct {
  const float *a, *b;
  const char *next; /* weights to fetch meanwhile */
  float *one, *two; /* quadrants its products are added to; two may be 0 */
  float sign_one, sign_two;
  int64_t len;
  int32_t fresh_one, fresh_two; /* nothing has been stored there yet */
} job_t;

INLINE void add_to(float *to, vf acc[MR][NB], const float sign, const int fresh) {
  if (fresh) {
    UNROLL for (int i = 0; i < MR; i++) UNROLL for (int j = 0; j < NB; j++) st(to + (i * NB + j) * VL, acc[i][j]);
  } else {
    const vf s = splat(sign);
    UNROLL for (int i = 0; i < MR; i++)
      UNROLL for (int j = 0; j < NB; j++) st(to + (i * NB + j) * VL, FMA(acc[i][j], s, ld(to + (i * NB + j) * VL)));
  }
}

INLINE void step(vf acc[MR][NB], const float *a, const float *b) {
  vf w[NB];
  UNROLL for (int j = 0; j < NB; j++) w[j] = ld(b + j * VL);
  UNROLL for (int i = 0; i < MR; i++) {
    vf x = splat(a[i * LDS]);
    UNROLL for (int j = 0; j < NB; j++) acc[i][j] = FMA(x, w[j], acc[i][j]);
  }
}

static __attribute__((noinline)) void tile(const job_t *q) {
  vf acc[MR][NB];
  UNROLL for (int i = 0; i < MR; i++) UNROLL for (int j = 0; j < NB; j++) acc[i][j] = (vf){};
  const float *a = q->a, *b = q->b;
  const char *next = q->next;
  const int64_t len = q->len;
  int64_t k = 0;
#pragma clang loop unroll(disable)
  for (; k + UK <= len; k += UK) {
    UNROLL for (int l = 0; l < PFL; l++) __builtin_prefetch(next + 64 * l, 0, 3);
    next += 64 * PFL;
    UNROLL for (int u = 0; u < UK; u++) step(acc, a + k + u, b + (k + u) * W);
  }
#pragma clang loop unroll(disable)
  for (; k < len; k++) step(acc, a + k, b + k * W);
  add_to(q->one, acc, q->sign_one, q->fresh_one);
  if (q->two) add_to(q->two, acc, q->sign_two, q->fresh_two);
}

/* Quadrants: 0 upper left, 1 upper right, 2 lower left, 3 lower right; -1 none. fresh: bit i where the target i is met first. */
static const struct { int8_t one, two, sign_one, sign_two, fresh; } targets[7] = {
  {0, 3, 1, 1, 3}, {2, 3, 1, -1, 1}, {1, 3, 1, 1, 1}, {0, 2, 1, 1, 0}, {0, 1, -1, 1, 0}, {3, -1, 1, 1, 0}, {0, -1, 1, 1, 0}};

INLINE void finish(const float *from, const epi_t *e, float *out, int64_t img_rows, int64_t pix, int64_t c) {
  UNROLL for (int j = 0; j < NB; j++)
    st(out + pix * OLD + c + j * VL, epilogue(ld(from + j * VL), e, pix / img_rows, pix, c + j * VL, VL));
}

EXPORT void ENTRY(void *const *p, const int64_t *v, int32_t part, int32_t parts) {
  (void)v;
  epi_t e;
  epi_init(&e, p);
  const int64_t half = HALF_M, pairs = (int64_t)(BATCH) * half, padded = ROUND_UP(pairs, MR), tiles = padded / MR;
  const float *a = p[P_SHARED], *w = p[P_B];
  float *c = p[P_WS], *out = p[P_OUT];
  const int64_t quadrant = (int64_t)PT * MR * W, img_rows = IMG_ROWS;
  int64_t j0, j1;
  share(NBLK, part, parts, &j0, &j1);
  for (int64_t tb = 0; tb < tiles; tb += PT) {
    const int64_t te = tb + PT < tiles ? tb + PT : tiles;
    const float *b = w + j0 * (7 * (int64_t)HALF_K * W);
    for (int64_t j = j0; j < j1; j++) {
      for (int64_t kb = 0; kb < HALF_K; kb += KC) {
        const int64_t len = HALF_K - kb < KC ? HALF_K - kb : KC;
        const char *later = (const char *)(b + len * W), *end = (const char *)(b + 2 * len * W);
        for (int r = 0; r < 7; r++) {
          job_t q;
          q.b = b;
          q.len = len;
          q.sign_one = targets[r].sign_one, q.sign_two = targets[r].sign_two;
          q.fresh_one = kb == 0 && (targets[r].fresh & 1), q.fresh_two = kb == 0 && (targets[r].fresh & 2);
          const int64_t span = PFL * 64 * (len / UK);
          for (int64_t t = tb; t < te; t++) {
            q.a = a + (r * padded + t * MR) * LDS + kb;
            q.one = c + targets[r].one * quadrant + (t - tb) * (MR * W);
            q.two = targets[r].two < 0 ? 0 : c + targets[r].two * quadrant + (t - tb) * (MR * W);
            /* Once the next panel is fetched, its last lines again: what lies behind it would only displace. */
            q.next = later + span <= end ? later : end - span;
            later += span;
            tile(&q);
          }
          b += len * W;
          later = (const char *)(b + len * W), end = (const char *)(b + 2 * len * W);
        }
      }
      const int64_t last = te * MR < pairs ? te * MR : pairs;
      for (int64_t u = tb * MR; u < last; u++) {
        const int64_t i = u % half, pix = u / half * (IMAGE) + i;
        const float *from = c + (u - tb * MR) * W;
        finish(from, &e, out, img_rows, pix, j * W);
        finish(from + quadrant, &e, out, img_rows, pix, HALF_N + j * W);
        if (i + half < (IMAGE)) {
          finish(from + 2 * quadrant, &e, out, img_rows, pix + half, j * W);
          finish(from + 3 * quadrant, &e, out, img_rows, pix + half, HALF_N + j * W);
        }
      }
    }
  }
}
