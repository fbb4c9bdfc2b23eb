/* What every driver of a recurrent layer shares: the cell, and the sums of a group of hidden units with the cell on them.
 *
 * R is packed by groups of NU vectors of hidden units: for each k all gates of the group lie side by side, and are read in the order
 * they lie. Sums run over k in order, one chain for each result, so that a row's values do not depend on the rows beside it. States
 * have HP floats a row. A GRU that resets before its product (GATES2 > 0) takes two passes a step: z and r, then the candidate from
 * r * h. */
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

/* Any number of rows for one group, up to MB at a time. */
INLINE void group_of_rows(const row_t *row, int64_t rows, const float *packed, int64_t at, int gates, int pass) {
  int64_t i = 0;
  for (; i + MB <= rows; i += MB) group(row + i, packed, at, MB, gates, pass);
  switch (rows - i) {
#if MB > 1
    case 1: group(row + i, packed, at, 1, gates, pass); break;
#endif
#if MB > 2
    case 2: group(row + i, packed, at, 2, gates, pass); break;
#endif
#if MB > 3
    case 3: group(row + i, packed, at, 3, gates, pass); break;
#endif
#if MB > 4
    case 4: group(row + i, packed, at, 4, gates, pass); break;
#endif
#if MB > 5
    case 5: group(row + i, packed, at, 5, gates, pass); break;
#endif
#if MB > 6
    case 6: group(row + i, packed, at, 6, gates, pass); break;
#endif
#if MB > 7
    case 7: group(row + i, packed, at, 7, gates, pass); break;
#endif
    default: break;
  }
}

INLINE void copy(float *to, const float *from, int64_t n) {
  for (int64_t i = 0; i < n; i++) to[i] = from ? from[i] : 0.0f;
}
