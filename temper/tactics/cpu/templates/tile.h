/* One register tile of a matrix product: MR rows x NB vectors of columns, and what happens to it before and after its products.
 *
 * Needs epi_t, epilogue() and epi_store(). Defined by the tactic: MR NB NBT NLT (see conv_gemm.c), UK PFL, OLD, EPI_LOOP, BIAS,
 * KBLOCKED, LATE, TERMS: what a 32-bit word of A and of a lane of B holds:
 * FLOAT one float; HALVES two bfloat16; BYTES four bytes, unsigned ones of A (FLIP makes signed ones unsigned by adding 128; PACKED: as they are copied) and signed ones of B; PAIRS two
 * int16; ZERO_POINT: the code for zero; SUMS: where after the bias the sums of the weights of a channel are, if that code is known at run
 * time only (-1 otherwise): the bias is that without it. */

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

struct late;

/* A call's operands. pix, c: first output row and channel; len: terms; valid: rows to store where not all MR are. */
typedef struct {
  const float *a, *b, *bias;
  const char *next; /* weights to bring into L2 meanwhile */
  float *partial;
  void *out;
  const epi_t *e;
  int64_t pix, c, img_rows, row_step, len;
  int32_t valid, first, last, zero;
  struct late *late; /* where results wait */
} job_t;

/* One word of each row of A (lda bytes apart) times one vector of words of every column block. */
INLINE void step(acc_t acc[MR][NB], const float *a, const int64_t lda, const float *b, const int mr, const int nb) {
#if TERMS == FLOAT
  vf w[NB];
#pragma clang loop unroll(full)
  for (int j = 0; j < nb; j++) w[j] = ld(b + j * VL);
#pragma clang loop unroll(full)
  for (int i = 0; i < mr; i++) {
    vf x = splat(*(const float *)((const char *)a + i * lda));
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
    vi x = splati(*(const word *)((const char *)a + i * lda));
#if TERMS == BYTES
    if (FLIP && !PACKED) x ^= splati((int32_t)0x80808080);
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

#if EPI_CODES && VL == 16
/* `rows` rows of results narrowed together and stored, four registers at a time: as many as fill four with the last nb % 4 of each. */
#define TOGETHER(nb) ((nb) % 4 == 1 ? 4 : (nb) % 4 == 2 ? 2 : 1)
INLINE void finish(const acc_t *v, const job_t *q, const epi_t *e, int i, const int rows, const int nb, const int nl) {
  const int whole = nb / 4 * 4, rest = nb % 4;
  const int64_t pix = q->pix + i, c = q->c;
  uint8_t *out = (uint8_t *)q->out + pix * OLD + c;
#define RESULT(a, j) epilogue(v[(a) * nb + (j)], e, (pix + (a)) / q->img_rows, pix + (a), c + (j) * VL, (j) == nb - 1 ? nl : VL)
#pragma clang loop unroll(full)
  for (int a = 0; a < rows; a++)
#pragma clang loop unroll(full)
    for (int j = 0; j < whole; j += 4) {
      const __m512i codes = v_codes(RESULT(a, j), RESULT(a, j + 1), RESULT(a, j + 2), RESULT(a, j + 3), EPI_ZERO, EPI_SIGNED);
      st_first(out + a * OLD + j * VL, codes, j + 4 == nb ? 3 * VL + nl : 4 * VL);
    }
  if (rest == 0) return;
  vi w[4] = {};
#pragma clang loop unroll(full)
  for (int a = 0; a < rows; a++)
#pragma clang loop unroll(full)
    for (int j = 0; j < rest; j++) w[a * rest + j] = RESULT(a, whole + j);
  const int count = rows * rest;
  const __m512i codes = v_codes(w[0], w[count > 1 ? 1 : 0], w[count > 2 ? 2 : 0], w[count > 3 ? 3 : 0], EPI_ZERO, EPI_SIGNED);
  const int n = (rest - 1) * VL + nl;
  uint8_t *at = out + whole * VL;
  if (rest == 3) {
    st_first(at, codes, n);
  } else if (rest == 2) {
    st_first(at, codes, n);
    if (rows > 1) st_first(at + OLD, _mm512_castsi256_si512(_mm512_extracti64x4_epi64(codes, 1)), n);
  } else {
    st_first(at, codes, n);
    if (rows > 1) st_first(at + OLD, _mm512_castsi128_si512(_mm512_extracti32x4_epi32(codes, 1)), n);
    if (rows > 2) st_first(at + 2 * OLD, _mm512_castsi128_si512(_mm512_extracti32x4_epi32(codes, 2)), n);
    if (rows > 3) st_first(at + 3 * OLD, _mm512_castsi128_si512(_mm512_extracti32x4_epi32(codes, 3)), n);
  }
#undef RESULT
}
#else
#define TOGETHER(nb) 1
INLINE void finish(const acc_t *v, const job_t *q, const epi_t *e, int i, const int rows, const int nb, const int nl) {
#pragma clang loop unroll(full)
  for (int a = 0; a < rows; a++)
#pragma clang loop unroll(full)
    for (int j = 0; j < nb; j++) {
      const int64_t pix = q->pix + i + a, c = q->c + j * VL;
      const int n = j == nb - 1 ? nl : VL;
      epi_store(q->out, pix * OLD + c, epilogue(v[a * nb + j], e, pix / q->img_rows, pix, c, n), n);
    }
}
#endif

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
#if SUMS >= 0
      b -= splati(q->zero) * ldi(q->bias + SUMS + j * VL);
#endif
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
  const epi_t e = *q->e; /* its pointers stay in registers: bytes stored may be anything's */
  const int together = TOGETHER(nb);
  if (!EPI_LOOP && !part) {
#pragma clang loop unroll(full)
    for (int i = 0; i < mr; i += together) {
      acc_t v[4 * NB];
      const int rows = mr - i < together ? mr - i : together;
#pragma clang loop unroll(full)
      for (int a = 0; a < rows; a++)
#pragma clang loop unroll(full)
        for (int j = 0; j < nb; j++) v[a * nb + j] = acc[i + a][j];
      finish(v, q, &e, i, rows, nb, nl);
    }
    return;
  }
  acc_t spill[MR * NB];
#pragma clang loop unroll(full)
  for (int i = 0; i < mr; i++)
#pragma clang loop unroll(full)
    for (int j = 0; j < nb; j++) spill[i * nb + j] = acc[i][j];
  const int rows = part ? q->valid : mr;
  int i = 0;
#pragma clang loop unroll(disable)
  for (; i + together <= rows; i += together) finish(spill + i * nb, q, &e, i, together, nb, nl);
#pragma clang loop unroll(disable)
  for (; together > 1 && i < rows; i++) finish(spill + i * nb, q, &e, i, 1, nb, nl);
}

#if LATE
/* Sums of the last whole tile, whose results are made while the next one is multiplied: `some` of them wait. */
typedef struct late {
  acc_t acc[MR * NB];
  job_t q;
  int32_t some;
} late_t;

/* Rows `i` and on of the waiting tile that are made together. */
INLINE void finish_late(const late_t *late, const int i) {
  const epi_t e = *late->q.e;
  const int together = TOGETHER(NB);
  finish(late->acc + i * NB, &late->q, &e, i, MR - i < together ? MR - i : together, NB, VL);
}

/* A whole tile of `len` terms. Between its products, which keep two of four pipes busy, results of the tile before it are made. */
INLINE void tile_and_late(const job_t *q, const int64_t lda, const int64_t len) {
  acc_t acc[MR][NB];
  late_t *late = q->late;
  const char *next = q->next;
  const int together = TOGETHER(NB), pieces = (MR + together - 1) / together;
  const int64_t piece = len / pieces / UK * UK;
  int64_t k = 0;
  start(acc, q, MR, NB, VL);
#pragma clang loop unroll(full)
  for (int i = 0; i < MR; i += together, k += piece) {
    terms(acc, q->a + k, lda, q->b + k * NB * VL, piece, &next, MR, NB);
    if (late->some) finish_late(late, i);
  }
  terms(acc, q->a + k, lda, q->b + k * NB * VL, len - k, &next, MR, NB);
#pragma clang loop unroll(full)
  for (int i = 0; i < MR; i++)
#pragma clang loop unroll(full)
    for (int j = 0; j < NB; j++) late->acc[i * NB + j] = acc[i][j];
  late->q.pix = q->pix, late->q.c = q->c, late->some = 1;
}

static __attribute__((noinline)) void flush(const late_t *late) {
  if (!late->some) return;
#pragma clang loop unroll(full)
  for (int i = 0; i < MR; i += TOGETHER(NB)) finish_late(late, i);
}
#endif

/* n words; the destination has VL words of slack. */
INLINE void copy(float *to, const float *from, int64_t n) {
  int64_t k = 0;
#pragma clang loop unroll_count(4)
  for (; k + VL <= n; k += VL) st(to + k, ld(from + k));
  if (k < n) st(to + k, ldn(from + k, (int)(n - k)));
}

/* n words of nothing: zeros, or codes that stand for zero. */
INLINE void clear(float *to, int64_t n, uint32_t zero) {
#if TERMS == FLOAT || TERMS == HALVES
  const vi nothing = {};
  (void)zero;
#else
  const vi nothing = splati((int32_t)(TERMS == BYTES ? (zero & 0xffu) * 0x01010101u : (zero & 0xffffu) * 0x00010001u));
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

