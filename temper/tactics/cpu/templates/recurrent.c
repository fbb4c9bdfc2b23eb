/* A recurrent layer whose gates already hold the input's share: for every step, gates += h R^T, then the cell.
 *
 * One share is a range of (direction, row) pairs; rows of a batch take their steps together, ROWS at a time, so that R is read once
 * a step for all of them. R is packed by groups of NU vectors of hidden units: for each k all gates of the group lie side by side,
 * and the kernel reads them in the order they lie. Sums run over k in order, one chain for each result, so that a row's values do
 * not depend on the rows beside it.
 *
 * States live in this thread's workspace, HP floats a row; h is double-buffered. A GRU that resets before its product (GATES2 > 0)
 * takes two passes a step: z and r, then the candidate from r * h. */
#define UNROLL _Pragma("clang loop unroll(full)")
#define HP (GROUPS * NU * VL)
#define PASS1 ((int64_t)GROUPS * HIDDEN * NU * GATES * VL)
#define PACKED (PASS1 + (int64_t)GROUPS * HIDDEN * NU * GATES2 * VL)

typedef struct {
  const float *x;      /* gates of this step, in this direction */
  float *y;            /* result of this step */
  const float *h;
  float *next, *c, *z, *rh;
  const float *peep, *bias;
  int d;
} row_t;

/* The states of hidden units [at, at + n) after this step from the sums a of their gates, g at a[g]. */
INLINE void cell(const row_t *r, const vf *a, int64_t at, int n) {
#if CELL == LSTM
  const vf c0 = ld(r->c + at);
  vf i = a[0] + ldx(r->x + at, n), o = a[1] + ldx(r->x + HIDDEN + at, n);
  vf f = a[2] + ldx(r->x + 2 * HIDDEN + at, n), g = a[3] + ldx(r->x + 3 * HIDDEN + at, n);
#if PEEPHOLES
  i += ldx(r->peep + at, n) * c0;
  f += ldx(r->peep + 2 * HIDDEN + at, n) * c0;
#endif
  i = act0(r->d, i);
  f = COUPLED ? 1.0f - i : act0(r->d, f);
  const vf c = f * c0 + i * act1(r->d, g);
#if PEEPHOLES
  o += ldx(r->peep + HIDDEN + at, n) * c;
#endif
  const vf h = act0(r->d, o) * act2(r->d, c);
  st(r->c + at, c);
#elif CELL == GRU_BEFORE
  const vf z = act0(r->d, a[0] + ldx(r->x + at, n)), reset = act0(r->d, a[1] + ldx(r->x + HIDDEN + at, n));
  st(r->z + at, z);
  st(r->rh + at, reset * ld(r->h + at));
#elif CELL == GRU_AFTER
  const vf z = act0(r->d, a[0] + ldx(r->x + at, n)), reset = act0(r->d, a[1] + ldx(r->x + HIDDEN + at, n));
  vf inner = a[2];
#if CANDIDATE_BIAS
  inner += ldx(r->bias + at, n);
#endif
  const vf g = act1(r->d, ldx(r->x + 2 * HIDDEN + at, n) + reset * inner);
  const vf h = (1.0f - z) * g + z * ld(r->h + at);
#else
  const vf h = act0(r->d, a[0] + ldx(r->x + at, n));
#endif
#if CELL != GRU_BEFORE
  st(r->next + at, h);
  stx(r->y + at, h, n);
#endif
}

#if GATES2
/* The second pass of a GRU_BEFORE. */
INLINE void cell2(const row_t *r, const vf *a, int64_t at, int n) {
  const vf z = ld(r->z + at), g = act1(r->d, ldx(r->x + 2 * HIDDEN + at, n) + a[0]);
  const vf h = (1.0f - z) * g + z * ld(r->h + at);
  st(r->next + at, h);
  stx(r->y + at, h, n);
}
#endif

/* Sums of `rows` rows (at most MB) for one group of hidden units; rows and gates are constants after inlining. */
INLINE void group(const row_t *row, const float *packed, int64_t first, int rows, int gates, int pass) {
  vf acc[MB][NU * GATES];
  const float *h[MB];
  UNROLL for (int i = 0; i < rows; i++) {
    h[i] = pass ? row[i].rh : row[i].h;
    UNROLL for (int j = 0; j < NU * gates; j++) acc[i][j] = (vf){};
  }
#pragma clang loop unroll_count(UK)
  for (int64_t k = 0; k < HIDDEN; k++, packed += NU * gates * VL) {
    vf w[NU * GATES];
    UNROLL for (int j = 0; j < NU * gates; j++) w[j] = ld(packed + j * VL);
    UNROLL for (int i = 0; i < rows; i++) {
      const vf s = splat(h[i][k]);
      UNROLL for (int j = 0; j < NU * gates; j++) acc[i][j] = FMA(s, w[j], acc[i][j]);
    }
  }
  vf out[MB * NU * GATES]; /* a copy in memory: the sums stay in registers above */
  UNROLL for (int i = 0; i < rows; i++)
    UNROLL for (int j = 0; j < NU * gates; j++) out[i * NU * gates + j] = acc[i][j];
#pragma clang loop unroll(disable)
  for (int t = 0; t < rows * NU; t++) {
    const int64_t at = first + t % NU * VL;
    const int n = at + VL <= HIDDEN ? VL : (int)(HIDDEN - at);
    if (n <= 0 || !row[t / NU].y) continue;
#if GATES2
    if (pass) cell2(row + t / NU, out + t * gates, at, n);
    else
#endif
      cell(row + t / NU, out + t * gates, at, n);
  }
}

/* All hidden units of up to MB rows at a time. */
INLINE void pass_over(const row_t *row, int64_t rows, const float *packed, int gates, int pass) {
  for (int64_t g = 0; g < GROUPS; g++, packed += (int64_t)HIDDEN * NU * gates * VL) {
    int64_t i = 0;
    for (; i + MB <= rows; i += MB) group(row + i, packed, g * NU * VL, MB, gates, pass);
    switch (rows - i) {
#if MB > 1
      case 1: group(row + i, packed, g * NU * VL, 1, gates, pass); break;
#endif
#if MB > 2
      case 2: group(row + i, packed, g * NU * VL, 2, gates, pass); break;
#endif
#if MB > 3
      case 3: group(row + i, packed, g * NU * VL, 3, gates, pass); break;
#endif
#if MB > 4
      case 4: group(row + i, packed, g * NU * VL, 4, gates, pass); break;
#endif
#if MB > 5
      case 5: group(row + i, packed, g * NU * VL, 5, gates, pass); break;
#endif
#if MB > 6
      case 6: group(row + i, packed, g * NU * VL, 6, gates, pass); break;
#endif
#if MB > 7
      case 7: group(row + i, packed, g * NU * VL, 7, gates, pass); break;
#endif
      default: break;
    }
  }
}

INLINE void copy(float *to, const float *from, int64_t n) {
  for (int64_t i = 0; i < n; i++) to[i] = from ? from[i] : 0.0f;
}

#if PACK
/* R [DIRECTIONS, G * HIDDEN, HIDDEN] into the packed order; lanes past the last unit are 0. */
EXPORT void ENTRY_PACK(void *const *p, const int64_t *v, int32_t part, int32_t parts) {
  const float *r = p[P_R];
  float *to = p[P_PACKED];
  int64_t lo, hi;
  share((int64_t)DIRECTIONS * GROUPS, part, parts, &lo, &hi);
  for (int64_t t = lo; t < hi; t++)
    for (int pass = 0; pass < (GATES2 ? 2 : 1); pass++) {
      const int64_t d = t / GROUPS, g = t % GROUPS, gates = pass ? GATES2 : GATES;
      float *q = to + d * PACKED + (pass ? PASS1 : 0) + g * HIDDEN * NU * gates * VL;
      for (int64_t k = 0; k < HIDDEN; k++)
        for (int64_t j = 0; j < NU; j++)
          for (int64_t gate = 0; gate < gates; gate++)
            for (int64_t lane = 0; lane < VL; lane++, q++) {
              const int64_t unit = (g * NU + j) * VL + lane, line = (gate + (pass ? GATES : 0)) * HIDDEN + unit;
              *q = unit < HIDDEN ? r[(d * (GATES + GATES2) * HIDDEN + line) * R_STRIDE + k] : 0.0f;
            }
    }
}
#endif

EXPORT void ENTRY(void *const *p, const int64_t *v, int32_t part, int32_t parts) {
  const int64_t steps = STEPS, batch = BATCH;
  const float *gates = p[P_GATES], *packed = p[P_PACKED];
  const float *bias = CANDIDATE_BIAS ? p[P_BIAS] : 0, *peep = PEEPHOLES ? p[P_PEEP] : 0;
  const int32_t *lengths = LENGTHS ? p[P_LENGTHS] : 0;
  const float *h0 = P_H0 >= 0 ? p[P_H0 >= 0 ? P_H0 : 0] : 0, *c0 = P_C0 >= 0 ? p[P_C0 >= 0 ? P_C0 : 0] : 0;
  float *y = p[P_Y], *last_h = p[P_LAST_H], *last_c = CELL == LSTM ? p[P_LAST_C] : 0, *ws = p[P_WS];
  row_t row[ROWS];
  int64_t lo, hi;
  share(DIRECTIONS * batch, part, parts, &lo, &hi);
  while (lo < hi) {
    const int64_t d = lo / batch, b0 = lo % batch;
    int64_t rows = (d + 1) * batch < hi ? (d + 1) * batch - lo : hi - lo;
    if (rows > ROWS) rows = ROWS;
    const int backward = d ? REVERSE1 : REVERSE0;
    for (int64_t i = 0; i < rows; i++) {
      float *mine = ws + i * STATES * HP;
      row[i] = (row_t){.h = mine, .next = mine + HP, .c = mine + 2 * HP, .z = mine + 2 * HP, .rh = mine + 3 * HP,
                       .peep = peep + d * 3 * HIDDEN, .bias = bias + d * HIDDEN, .d = (int)d};
      copy(mine, 0, STATES * HP);
      copy(mine, h0 ? h0 + (lo + i) * HIDDEN : 0, HIDDEN);
      if (CELL == LSTM) copy(row[i].c, c0 ? c0 + (lo + i) * HIDDEN : 0, HIDDEN);
    }
    for (int64_t s = 0; s < steps; s++) {
      for (int64_t i = 0; i < rows; i++) {
        const int64_t b = b0 + i;
        int64_t count = LENGTHS ? lengths[b] : steps;
        count = count < 0 ? 0 : count > steps ? steps : count;
        const int64_t t = s < count && backward ? count - 1 - s : s, at = BATCH_FIRST ? b * steps + t : t * batch + b;
        float *out = y + at * Y_STRIDE + d * HIDDEN;
        row[i].x = gates + at * GATES_STRIDE + d * (GATES + GATES2) * HIDDEN;
        row[i].y = out;
        if (LENGTHS && s >= count) { /* past its end: the state stays, the result is 0 */
          row[i].y = 0;
          copy(out, 0, HIDDEN);
          copy(row[i].next, row[i].h, HIDDEN);
        }
      }
      const float *r = packed + d * PACKED;
      pass_over(row, rows, r, GATES, 0);
#if GATES2
      pass_over(row, rows, r + PASS1, GATES2, 1);
#endif
      for (int64_t i = 0; i < rows; i++) {
        float *now = row[i].next;
        row[i].next = (float *)row[i].h;
        row[i].h = now;
      }
    }
    for (int64_t i = 0; i < rows; i++) {
      copy(last_h + (lo + i) * HIDDEN, row[i].h, HIDDEN);
      if (CELL == LSTM) copy(last_c + (lo + i) * HIDDEN, row[i].c, HIDDEN);
    }
    lo += rows;
  }
}
