/* Attention of codes (ir/ops/attention.py, AttentionInt8) for each (batch, head, block of QB queries), all in this thread's workspace.
 *
 * Operands of products are words of PER cells: four bytes, unsigned ones of queries and weights and signed ones of keys and values
 * (BYTES), or two int16. Scores of a block are kept for all keys, since codes of weights need the largest score. Per head, keys are
 * packed as [block of W keys][D in words][W] and values as [T in words][EV * VL]; heads that share them are neighbours.
 *
 * Queries are stored less their zero point where cells are int16; bytes are OFFSET more than that, which the sums of the keys take
 * back: keys' `bias`. Q_AT K_AT V_AT OUT_PIX MASK_AT(b, h, s): places of a row in elements. CAUSAL, SAFE: as in attention.c. */
#if BYTES
typedef uint8_t cell_t;
#define PER 4
#define DOT dot4
#define MASK_OF_CELL 255
#else
typedef int16_t cell_t;
#define PER 2
#define DOT dot2
#define MASK_OF_CELL 65535
#endif
typedef int32_t __attribute__((aligned(1), may_alias)) word_t;
#define CELL_BITS (32 / PER)
#define DW ((D + PER - 1) / PER)
/* Registers of columns and rows of a tile of results: four registers narrow together. */
#define TOGETHER (VL == 16 && EPI_CODES && EV % 4 == 0)
#define COLS (TOGETHER ? 4 : NB)
#define ROWS (TOGETHER ? 4 : MR)

/* acc[i][j] += the products of words a[i*lda + k] and b[k*ldb + j*VL]. */
INLINE void product(vi acc[MR][COLS], const word_t *a, int64_t lda, const int32_t *b, int64_t ldb, int64_t len, const int mr, const int nb) {
#pragma clang loop unroll_count(4)
  for (int64_t k = 0; k < len; k++) {
    vi w[COLS];
    UNROLL for (int j = 0; j < nb; j++) w[j] = ldi(b + k * ldb + j * VL);
    UNROLL for (int i = 0; i < mr; i++) {
      vi x = splati(a[i * lda + k]);
      UNROLL for (int j = 0; j < nb; j++) acc[i][j] = DOT(acc[i][j], x, w[j]);
    }
  }
}

/* What is known of a query: its mask, and how many keys it sees, no fewer than the query before. */
typedef struct {
  const float *mask;
  int64_t seen;
} query_t;

/* Scores, with the mask, of mr queries against the W keys from number `at` on, which are one packed block. keys: how many there are.
 * scale: of the scores. */
INLINE void scores(float *s, int64_t lds, const word_t *q, const int32_t *packed, const int32_t *bias, const query_t *of, int64_t at,
                   int64_t keys, vf scale, const int mr) {
  (void)keys;
  vi acc[MR][COLS];
  UNROLL for (int j = 0; j < NB; j++) {
    const vi b = ldi(bias + j * VL);
    UNROLL for (int i = 0; i < mr; i++) acc[i][j] = b;
  }
  product(acc, q, DW, packed, W, DW, mr, NB);
  const int hide = at + W > of[0].seen;
  UNROLL for (int j = 0; j < NB; j++) {
    const int64_t first = at + j * VL;
#if MASK
    const int n = (int)LEAST(keys - first, VL);
    vf mask = ldx(of[0].mask + first, n < 0 ? 0 : n);
#endif
    UNROLL for (int i = 0; i < mr; i++) {
      vf x = v_from_int(acc[i][j]) * scale;
#if MASK
      if (MASK_ROWS && i > 0) mask = ldx(of[i].mask + first, n < 0 ? 0 : n);
      x += mask;
#endif
      if (hide) x = sel(iota() < splati((int)(of[i].seen - first)), x, splat(-V_INF));
      st(s + i * lds + j * VL, x);
    }
  }
}

INLINE void st_cells(cell_t *p, vi v) {
#if BYTES
  st_byte(p, v, VL);
#else
  typedef int16_t half __attribute__((vector_size(2 * VL)));
  typedef int16_t half_any __attribute__((vector_size(2 * VL), aligned(1), may_alias));
  *(half_any *)p = (half)__builtin_convertvector(v, half);
#endif
}

/* The codes of the weights e^(x - base). */
INLINE vi weights(vf x, vf base) {
  const vf magic = splat(0x1.8p23f), t = v_maxr(splat(-16.0f), (x - base) * splat(0x1.715476p+0f));
  const vf r = t + magic, f = t - (r - magic);
  const vf p = splat(255.0f) + f * (splat(0x1.619302p+7f) + f * (splat(0x1.ee1b8ap+5f) + f * splat(0x1.c0de1cp+3f)));
  return (vi)((vf)((vi)p + ((vi)r << 23)) + magic) - (vi)magic;
}

/* Weights of `count` neighbouring queries as cells, `width` of them; inverse: one over their sums. */
INLINE void weigh(const float *s, int64_t lds, cell_t *cells, int64_t ldc, float *inverse, int64_t width, const int count) {
  vf base[2];
  vi sum[2];
  UNROLL for (int i = 0; i < count; i++) base[i] = splat(-V_INF), sum[i] = (vi){};
  int64_t j = 0;
  for (; j < width; j += VL)
    UNROLL for (int i = 0; i < count; i++) base[i] = v_maxr(ld(s + i * lds + j), base[i]);
  UNROLL for (int i = 0; i < count; i++) {
    base[i] = lanes_maxr(base[i]);
    base[i] = sel(base[i] == splat(-V_INF), (vf){}, base[i]);
  }
  j = 0;
#if BYTES && VL == 16
  for (; j + 4 * VL <= width; j += 4 * VL)
    UNROLL for (int i = 0; i < count; i++) {
      vi c[4];
      UNROLL for (int k = 0; k < 4; k++) c[k] = weights(ld(s + i * lds + j + k * VL), base[i]);
      const __m512i codes = v_codes(c[0], c[1], c[2], c[3], 0, 0);
      sum[i] = dot4(sum[i], (vi)codes, splati(0x01010101));
      st_first(cells + i * ldc + j, codes, 4 * VL);
    }
#endif
  for (; j < width; j += VL)
    UNROLL for (int i = 0; i < count; i++) {
      const vi c = weights(ld(s + i * lds + j), base[i]);
      sum[i] += c;
      st_cells(cells + i * ldc + j, c);
    }
  UNROLL for (int i = 0; i < count; i++) {
    int32_t total = 0;
    for (int l = 0; l < VL; l++) total += sum[i][l];
    inverse[i] = SAFE && total == 0 ? 0.0f : 1.0f / (float)total;
  }
}

typedef struct {
  const epi_t *e;
  void *out;
  const float *inverse;
  int64_t img, pix, c;
} place_t;

/* mr rows of the result, nb registers of columns: the mean of the values. */
INLINE void values(const place_t *to, const word_t *p, int64_t ldp, const int32_t *v, int64_t len, const int mr, const int nb, const int nl) {
  vi acc[MR][COLS];
  UNROLL for (int i = 0; i < mr; i++) UNROLL for (int j = 0; j < nb; j++) acc[i][j] = (vi){};
  product(acc, p, ldp, v, EV * VL, len, mr, nb);
  UNROLL for (int i = 0; i < mr; i++) {
    const int64_t pix = to->pix + i;
    const vf inverse = splat(to->inverse[i]);
#define RESULT(j) epilogue(v_from_int(acc[i][j]) * inverse, to->e, to->img, pix, to->c + (j) * VL, (j) == nb - 1 ? nl : VL)
#if TOGETHER
    const __m512i codes = v_codes(RESULT(0), RESULT(1), RESULT(2), RESULT(3), EPI_ZERO, EPI_SIGNED);
    st_first((uint8_t *)to->out + pix * OLD + to->c, codes, 3 * VL + nl);
#else
    UNROLL for (int j = 0; j < nb; j++) epi_store(to->out, pix * OLD + to->c + j * VL, RESULT(j), j == nb - 1 ? nl : VL);
#endif
#undef RESULT
  }
}

INLINE void values_row(place_t to, const word_t *p, int64_t ldp, const int32_t *v, int64_t len, const int mr) {
  const int whole = EV % COLS ? EV / COLS : (ELAST < VL ? EV / COLS - 1 : EV / COLS);
  for (int b = 0; b < whole; b++, to.c += COLS * VL) values(&to, p, ldp, v + b * COLS * VL, len, mr, COLS, VL);
  if (whole * COLS < EV) values(&to, p, ldp, v + whole * COLS * VL, len, mr, EV - whole * COLS, ELAST);
}

/* A row of D codes as DW words, zeros behind the last. */
INLINE void row_words(cell_t *to, const void *from) {
#if BYTES
  __builtin_memcpy(to, from, D);
#else
  for (int d = 0; d < D; d++) to[d] = (int16_t)((const int8_t *)from)[d];
#endif
  for (int d = D; d < DW * PER; d++) to[d] = 0;
}

/* Keys as [block][DW][W], and bias[key] = -OFFSET times the sum of the key; those behind the last are zeros. */
static __attribute__((noinline)) void pack_keys(int32_t *to, int32_t *bias, const int8_t *k, int64_t t) {
  cell_t rows[VL][ROUND_UP(DW, VL) * PER] __attribute__((aligned(64)));
  for (int64_t j = 0; j < ROUND_UP(t, W); j += VL) {
    int32_t *block = to + j / W * (DW * W) + j % W;
    for (int i = 0; i < VL; i++) {
      if (j + i < t) row_words(rows[i], k + (j + i) * LDK);
      else __builtin_memset(rows[i], 0, sizeof rows[i]);
    }
    vi sum = {};
    for (int d = 0; d < DW; d += VL) {
      const int n = DW - d < VL ? DW - d : VL;
      vf r[VL];
      UNROLL for (int i = 0; i < VL; i++) r[i] = ld(rows[i] + d * PER);
      turn(r);
      for (int i = 0; i < n; i++) {
        st(block + (d + i) * W, r[i]);
#if BYTES && OFFSET
        sum = dot4(sum, splati(0x01010101), (vi)r[i]);
#endif
      }
    }
    sti(bias + j, sum * splati(-OFFSET));
  }
}

/* Values as [T in words][EV * VL]: a word has one column of PER neighbouring rows. */
static __attribute__((noinline)) void pack_values(int32_t *to, const int8_t *v, int64_t t) {
  for (int64_t j = 0; j < t; j += PER)
    for (int e = 0; e < EV; e++) {
      vi word = {};
      UNROLL for (int c = 0; c < PER; c++)
        if (j + c < t) {
          const int8_t *from = v + (j + c) * LDV + e * VL;
          word |= ((e < EV - 1 ? ld_int8(from, VL) : ld_int8(from, ELAST)) & splati(MASK_OF_CELL)) << (CELL_BITS * c);
        }
      sti(to + (j / PER * EV + e) * VL, word);
    }
}

/* Queries as words; bytes are made unsigned. */
INLINE void pack_queries(cell_t *to, const in_t *q, int64_t n) {
  for (int64_t i = 0; i < n; i++, to += DW * PER, q += LDQ) {
#if BYTES
    __builtin_memcpy(to, q, D);
    for (int d = 0; d < D; d++) to[d] ^= FLIP ? 128 : 0;
#else
    for (int d = 0; d < D; d++) to[d] = (int16_t)(q[d] - ZERO_POINT);
#endif
    for (int d = D; d < DW * PER; d++) to[d] = 0;
  }
}

EXPORT void ENTRY(void *const *p, const int64_t *v, int32_t part, int32_t parts) {
  (void)v;
  epi_t e;
  epi_init(&e, p);
  const vf scale = splat(*(const float *)p[P_SCALE]);
  const int64_t rows = SQ, t = SK, tp = ROUND_UP(t, W), blocks = (rows + QB - 1) / QB, lds = tp + 16, ldc = tp + 64;
  float *s = p[P_WS];
  int32_t *keys = (int32_t *)(s + QB * lds), *bias = keys + tp * DW, *vals = bias + tp, *query = vals + (t + PER - 1) / PER * EV * VL;
  cell_t *cells = (cell_t *)(query + QB * DW);
  const in_t *q = p[0];
  const int8_t *k = p[1], *val = p[2];
  int64_t lo, hi, packed = -1;
  share((int64_t)(BATCH) * HEADS * blocks, part, parts, &lo, &hi);
  for (int64_t u = lo; u < hi; u++) {
    const int64_t b = u / blocks / HEADS, h = u / blocks % HEADS, first = u % blocks * QB, n = LEAST(rows - first, QB);
    const int64_t g = h / (HEADS / KV_HEADS);
    if (packed != b * KV_HEADS + g) {
      packed = b * KV_HEADS + g;
      pack_keys(keys, bias, k + K_AT(b, g, 0), t);
      pack_values(vals, val + V_AT(b, g, 0), t);
    }
    pack_queries((cell_t *)query, q + Q_AT(b, h, first), n);
    const int64_t shift = t - rows + 1;
    int64_t seen = CAUSAL ? LEAST(t, first + n + t - rows) : t;
    if (seen < 0) seen = 0;
    const word_t *qw = (const word_t *)query;
    query_t of[QB];
    for (int64_t i = 0; i < n; i++) {
      const float *mask = MASK ? (const float *)p[P_MASK] + MASK_AT(b, h, first + i) : 0;
      of[i] = (query_t){mask, CAUSAL ? LEAST(t, first + i + shift) : t};
    }
    for (int64_t j = 0; j < seen; j += W) {
      int64_t i = 0;
#define SCORES(mr) scores(s + i * lds + j, lds, qw + i * DW, keys + j * DW, bias + j, of + i, j, t, scale, mr), i += mr
      while (i + MR <= n) SCORES(MR);
      if (MR > 4 && n - i >= 4) SCORES(4);
      if (n - i >= 2) SCORES(2);
      if (n - i >= 1) SCORES(1);
    }
    float inverse[QB];
    for (int64_t i = 0; i < n; i += 2) {
      if (i + 2 <= n) weigh(s + i * lds, lds, cells + i * ldc, ldc, inverse + i, ROUND_UP(seen, VL), 2);
      else weigh(s + i * lds, lds, cells + i * ldc, ldc, inverse + i, ROUND_UP(seen, VL), 1);
    }
    place_t to = {&e, p[P_OUT], inverse, b, OUT_PIX(b, h, first), OUT_C(h)};
    const int64_t ldw = ldc / PER, len = (seen + PER - 1) / PER;
    int64_t i = 0;
#define VALUES(mr) values_row(to, (const word_t *)(cells + i * ldc), ldw, vals, len, mr), i += mr, to.pix += mr, to.inverse += mr
    while (i + ROWS <= n) VALUES(ROWS);
    if (ROWS > 4 && n - i >= 4) VALUES(4);
    if (n - i >= 2) VALUES(2);
    if (n - i >= 1) VALUES(1);
  }
}
