/* One register tile of a matrix product: MR rows x NB vectors of columns, and what happens to it before and after its products.
 *
 * Needs epi_t, epilogue() and epi_store(). Defined by the tactic: MR NB NBT NLT (see conv_gemm.c), UK PFL, OLD, EPI_LOOP, BIAS,
 * KBLOCKED, TERMS: what a 32-bit word of A and of a lane of B holds:
 * FLOAT one float; HALVES two bfloat16; BYTES four bytes, unsigned ones of A (FLIP makes signed ones unsigned by adding 128) and signed ones of B; PAIRS two
 * int16; ZERO_POINT: the code for zero. */

#if TERMS == FLOAT || TERMS == HALVES
typedef vf acc_t;
#else
typedef vi acc_t;
#endif
#if TERMS != FLOAT
#if TERMS == HALVES
#define DOT dot2h
#elif TERMS == BYTES
#define DOT dot4
#else
#define DOT dot2
#endif
#endif

/* A call's operands. pix, c: first output row and channel; len: terms; valid: rows to store where not all MR are. */
typedef struct {
  const float *a, *b, *bias;
  const char *next; /* weights to bring into L2 meanwhile */
  float *partial;
  void *out;
  const epi_t *e;
  int64_t pix, c, img_rows, row_step, len;
  int32_t valid, first, last;
} job_t;

/* One word of each row of A times one vector of words of every column block. */
INLINE void step(acc_t acc[MR][NB], const float *a, const int64_t lda, const float *b, const int mr, const int nb) {
#if TERMS == FLOAT
  vf w[NB];
#pragma clang loop unroll(full)
  for (int j = 0; j < nb; j++) w[j] = ld(b + j * VL);
#pragma clang loop unroll(full)
  for (int i = 0; i < mr; i++) {
    vf x = splat(a[i * lda]);
#pragma clang loop unroll(full)
    for (int j = 0; j < nb; j++) acc[i][j] = FMA(x, w[j], acc[i][j]);
  }
#else
  typedef int32_t __attribute__((aligned(1), may_alias)) word;
  vi w[NB];
#pragma clang loop unroll(full)
  for (int j = 0; j < nb; j++) w[j] = ldi(b + j * VL);
#pragma clang loop unroll(full)
  for (int i = 0; i < mr; i++) {
    vi x = splati(*(const word *)(a + i * lda));
#if TERMS == BYTES
    if (FLIP) x ^= splati((int32_t)0x80808080);
#endif
#pragma clang loop unroll(full)
    for (int j = 0; j < nb; j++) acc[i][j] = DOT(acc[i][j], x, w[j]);
  }
#endif
}

INLINE void terms(acc_t acc[MR][NB], const float *a, const int64_t lda, const float *b, int64_t len, const char **next, const int mr, const int nb) {
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

INLINE void finish(acc_t v, const job_t *q, int i, int j, int n) {
  int64_t pix = q->pix + i, c = q->c + j * VL;
  epi_store(q->out, pix * OLD + c, epilogue(v, q->e, pix / q->img_rows, pix, c, n), n);
}

/* Accumulators: the bias, or the sums of the K blocks before this one. */
INLINE void start(acc_t acc[MR][NB], const job_t *q, const int mr, const int nb, const int nl) {
  (void)nl;
  if (!KBLOCKED || q->first) {
#pragma clang loop unroll(full)
    for (int j = 0; j < nb; j++) {
#if BIAS == 0
      acc_t b = {};
#elif BIAS == 1
      acc_t b = (acc_t)ld(q->bias + j * VL);
#else
      acc_t b = (acc_t)ldx(q->bias + j * VL, j == nb - 1 ? nl : VL);
#endif
#pragma clang loop unroll(full)
      for (int i = 0; i < mr; i++) acc[i][j] = b;
    }
    return;
  }
#pragma clang loop unroll(full)
  for (int i = 0; i < mr; i++)
#pragma clang loop unroll(full)
    for (int j = 0; j < nb; j++) acc[i][j] = (acc_t)ld(q->partial + (i * nb + j) * VL);
}

/* Sums kept for the next K block, or results through the epilogue. part: only q->valid rows exist. */
INLINE void store(acc_t acc[MR][NB], const job_t *q, const int mr, const int nb, const int nl, const int part) {
  if (KBLOCKED && !q->last) {
#pragma clang loop unroll(full)
    for (int i = 0; i < mr; i++)
#pragma clang loop unroll(full)
      for (int j = 0; j < nb; j++) st(q->partial + (i * nb + j) * VL, (vf)acc[i][j]);
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
    for (int j = 0; j < nb; j++) st(spill + (i * nb + j) * VL, (vf)acc[i][j]);
  const int rows = part ? q->valid : mr;
#pragma clang loop unroll(disable)
  for (int i = 0; i < rows; i++)
#pragma clang loop unroll(full)
    for (int j = 0; j < nb; j++) finish((acc_t)ld(spill + (i * nb + j) * VL), q, i, j, j == nb - 1 ? nl : VL);
}

/* n words; the destination has VL words of slack. */
INLINE void copy(float *to, const float *from, int64_t n) {
  int64_t k = 0;
#pragma clang loop unroll_count(4)
  for (; k + VL <= n; k += VL) st(to + k, ld(from + k));
  if (k < n) st(to + k, ldn(from + k, (int)(n - k)));
}

/* n words of nothing: zeros, or codes that stand for zero. */
INLINE void clear(float *to, int64_t n) {
#if TERMS == FLOAT || TERMS == HALVES
  const vi nothing = {};
#else
  const vi nothing = splati((int32_t)(TERMS == BYTES ? (ZERO_POINT & 0xffu) * 0x01010101u : (ZERO_POINT & 0xffffu) * 0x00010001u));
#endif
  for (int64_t k = 0; k < n; k += VL) sti(to + k, nothing);
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

