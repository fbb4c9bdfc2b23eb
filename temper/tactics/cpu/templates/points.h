/* The products of Winograd convolutions: at every point of the transform, M[tile][NB * VL] = V[tile][WORDS] U[WORDS][NB * VL].
 *
 * Defined before: POINTS; TB tiles per block; WORDS terms of a product, each a word_t: float, or two int16 (PAIRS); OC; NB vectors per
 * output-channel block, NBL of the last one; KERNELS(X) = X(rows, vectors) for every register tile; CASES(X) = X(rows) for 1..MR;
 * UNROLLED, LINES, AHEAD (bytes): how weights are fetched ahead.
 *
 * The distance between points, of V and of M, is an odd number of cache lines, because a tile's transform touches the same row of all
 * points and powers of two would share one L1 set. */
#if PAIRS
typedef int32_t word_t;
typedef vi words_t;
#define SPREAD splati
#define MULTIPLY(acc, a, b) dot2(acc, a, b)
#else
typedef float word_t;
typedef vf words_t;
#define SPREAD splat
#define MULTIPLY(acc, a, b) FMA(a, b, acc)
#endif
#define WORDS_PER_LINE 16
#define ODD_LINES(n) (((((n) + WORDS_PER_LINE - 1) / WORDS_PER_LINE) | 1) * WORDS_PER_LINE)
#define LDV ODD_LINES(WORDS)
#define LDM (NB * VL)
#define M_STEP ODD_LINES((int64_t)TB * LDM)
#define OC_BLOCKS ((OC + NB * VL - 1) / (NB * VL))
#define UNROLL _Pragma("clang loop unroll(full)")
#define PASTE_(a, b) a##b
#define PASTE(a, b) PASTE_(a, b)

INLINE void terms(words_t *acc, const word_t *v, const word_t *u, const int rows, const int vectors) {
  words_t w[6];
  UNROLL for (int b = 0; b < vectors; b++) w[b] = (words_t)ldi(u + b * VL);
  UNROLL for (int r = 0; r < rows; r++) {
    const words_t s = SPREAD(v[r * LDV]);
    UNROLL for (int b = 0; b < vectors; b++) acc[r * vectors + b] = MULTIPLY(acc[r * vectors + b], s, w[b]);
  }
}

/* m[r][b] = sum over k of v[r][k] * u[k][b], k ascending: the same roundings whichever register tile a row falls into.
 * Meanwhile LINES cache lines of later weights are fetched into L2 for every UNROLLED terms. */
INLINE void product(const word_t *v, const word_t *u, word_t *m, const char *later, const int rows, const int vectors) {
  words_t acc[28] = {};
  int64_t k = 0;
  _Pragma("clang loop unroll(disable)") for (; k + UNROLLED <= WORDS; k += UNROLLED) {
    UNROLL for (int l = 0; l < LINES; l++) __builtin_prefetch(later + 64 * l, 0, 2);
    later += 64 * LINES;
    UNROLL for (int i = 0; i < UNROLLED; i++) terms(acc, v + k + i, u + (k + i) * vectors * VL, rows, vectors);
  }
  _Pragma("clang loop unroll(disable)") for (; k < WORDS; k++) terms(acc, v + k, u + k * vectors * VL, rows, vectors);
  UNROLL for (int r = 0; r < rows; r++)
    UNROLL for (int b = 0; b < vectors; b++) sti(m + r * LDM + b * VL, (vi)acc[r * vectors + b]);
}

#define KERNEL(R, B)                                                                                                            \
  static __attribute__((noinline)) void product_##R##_##B(const word_t *v, const word_t *u, word_t *m, const char *later) {     \
    product(v, u, m, later, R, B);                                                                                              \
  }
KERNELS(KERNEL)

/* All points of `tiles` tiles and output-channel block ob: M = V U. `in` is row 0 of point 0, `in_step` the words between points. */
static void products(const word_t *in, int64_t in_step, int64_t tiles, int64_t ob, const word_t *u, word_t *out) {
  const int last = ob == OC_BLOCKS - 1;
  const int64_t panel = (int64_t)WORDS * (last ? NBL : NB) * VL, groups = (tiles + MR - 1) / MR;
  u += ob * POINTS * WORDS * NB * VL;
  for (int i = 0; i < POINTS; i++, u += panel) {
    const char *later = (const char *)u + AHEAD;
    for (int64_t g = 0; g < groups; g++, later += WORDS / UNROLLED * LINES * 64) {
      const int64_t lo = tiles * g / groups, hi = tiles * (g + 1) / groups;
      const word_t *v = in + i * in_step + lo * LDV;
      word_t *m = out + i * M_STEP + lo * LDM;
      switch ((hi - lo) * 2 + last) {
#define CASE(R)                                                   \
  case R * 2: PASTE(product_##R##_, NB)(v, u, m, later); break;   \
  case R * 2 + 1: PASTE(product_##R##_, NBL)(v, u, m, later); break;
        CASES(CASE)
      }
    }
  }
}
