/* One register tile of a matrix product: MR rows x NB vectors of columns, and what happens to it before and after its products.
 *
 * Needs epi_t and epilogue(). Defined by the tactic: MR NB NBT NLT (see conv_gemm.c), UK PFL, OLD, EPI_LOOP, BIAS, KBLOCKED. */

/* A call's operands. pix, c: first output row and channel; len: terms; valid: rows to store where not all MR are. */
typedef struct {
  const float *a, *b, *bias;
  const char *next; /* weights to bring into L2 meanwhile */
  float *out, *partial;
  const epi_t *e;
  int64_t pix, c, img_rows, row_step, len;
  int32_t valid, first, last;
} job_t;

INLINE void step(vf acc[MR][NB], const float *a, const int64_t lda, const float *b, const int mr, const int nb) {
  vf w[NB];
#pragma clang loop unroll(full)
  for (int j = 0; j < nb; j++) w[j] = ld(b + j * VL);
#pragma clang loop unroll(full)
  for (int i = 0; i < mr; i++) {
    vf x = splat(a[i * lda]);
#pragma clang loop unroll(full)
    for (int j = 0; j < nb; j++) acc[i][j] = FMA(x, w[j], acc[i][j]);
  }
}

INLINE void terms(vf acc[MR][NB], const float *a, const int64_t lda, const float *b, int64_t len, const char **next, const int mr, const int nb) {
  int64_t k = 0;
#pragma clang loop unroll(disable)
  for (; k + UK <= len; k += UK) {
#pragma clang loop unroll(full)
    for (int l = 0; l < PFL; l++) __builtin_prefetch(*next + 64 * l, 0, 3);
    *next += 64 * PFL;
#pragma clang loop unroll(full)
    for (int u = 0; u < UK; u++) step(acc, a + k + u, lda, b + (k + u) * nb * VL, mr, nb);
  }
#pragma clang loop unroll(disable)
  for (; k < len; k++) step(acc, a + k, lda, b + k * nb * VL, mr, nb);
}

INLINE void finish(vf v, const job_t *q, int i, int j, int n) {
  int64_t pix = q->pix + i, c = q->c + j * VL;
  stx(q->out + pix * OLD + c, epilogue(v, q->e, pix / q->img_rows, pix, c, n), n);
}

/* Accumulators: the bias, or the sums of the K blocks before this one. */
INLINE void start(vf acc[MR][NB], const job_t *q, const int mr, const int nb, const int nl) {
  (void)nl;
  if (!KBLOCKED || q->first) {
#pragma clang loop unroll(full)
    for (int j = 0; j < nb; j++) {
#if BIAS == 0
      vf b = {};
#elif BIAS == 1
      vf b = ld(q->bias + j * VL);
#else
      vf b = ldx(q->bias + j * VL, j == nb - 1 ? nl : VL);
#endif
#pragma clang loop unroll(full)
      for (int i = 0; i < mr; i++) acc[i][j] = b;
    }
    return;
  }
#pragma clang loop unroll(full)
  for (int i = 0; i < mr; i++)
#pragma clang loop unroll(full)
    for (int j = 0; j < nb; j++) acc[i][j] = ld(q->partial + (i * nb + j) * VL);
}

/* Sums kept for the next K block, or results through the epilogue. part: only q->valid rows exist. */
INLINE void store(vf acc[MR][NB], const job_t *q, const int mr, const int nb, const int nl, const int part) {
  if (KBLOCKED && !q->last) {
#pragma clang loop unroll(full)
    for (int i = 0; i < mr; i++)
#pragma clang loop unroll(full)
      for (int j = 0; j < nb; j++) st(q->partial + (i * nb + j) * VL, acc[i][j]);
    return;
  }
  if (!EPI_LOOP && !part) {
#pragma clang loop unroll(full)
    for (int i = 0; i < mr; i++)
#pragma clang loop unroll(full)
      for (int j = 0; j < nb; j++) finish(acc[i][j], q, i, j, j == nb - 1 ? nl : VL);
    return;
  }
  float spill[MR * NB * VL] __attribute__((aligned(64)));
#pragma clang loop unroll(full)
  for (int i = 0; i < mr; i++)
#pragma clang loop unroll(full)
    for (int j = 0; j < nb; j++) st(spill + (i * nb + j) * VL, acc[i][j]);
  const int rows = part ? q->valid : mr;
#pragma clang loop unroll(disable)
  for (int i = 0; i < rows; i++)
#pragma clang loop unroll(full)
    for (int j = 0; j < nb; j++) finish(ld(spill + (i * nb + j) * VL), q, i, j, j == nb - 1 ? nl : VL);
}

/* n floats; the destination has VL floats of slack. */
INLINE void copy(float *to, const float *from, int64_t n) {
  int64_t k = 0;
#pragma clang loop unroll_count(4)
  for (; k + VL <= n; k += VL) st(to + k, ld(from + k));
  if (k < n) st(to + k, ldn(from + k, (int)(n - k)));
}

INLINE void clear(float *to, int64_t n) {
  for (int64_t k = 0; k < n; k += VL) st(to + k, (vf){});
}

/* name: blocks of NB whole vectors; name_t: the last block of a group where that is another thing. */
#define BODY(name, mr, nb, nl, lda, copied, part) \
  static __attribute__((noinline)) void name(const job_t *q) { tile(q, mr, nb, nl, lda, copied, part); }
#if NBT || NLT < VL
#define VARIANT(name, mr, lda, copied, part) \
  BODY(name, mr, NB, VL, lda, copied, part) BODY(name##_t, mr, NBT ? NBT : NB, NLT, lda, copied, part)
#define CALL(name) (j == NBLK - 1 ? name##_t : name)(&q)
#else
#define VARIANT(name, mr, lda, copied, part) BODY(name, mr, NB, VL, lda, copied, part)
#define CALL(name) name(&q)
#endif

