/* A recurrent layer whose gates already hold the input's share: for every step, gates += h R^T, then the cell.
 *
 * One share is a range of (direction, row) pairs; rows of a batch take their steps together, ROWS at a time, so that R is read once
 * a step for all of them. States live in this thread's workspace; h is double-buffered. */
/* All hidden units of all rows. */
INLINE void pass_over(const row_t *row, int64_t rows, const float *packed, int gates, int pass) {
  for (int64_t g = 0; g < GROUPS; g++, packed += (int64_t)HIDDEN * NU * gates * VL)
    group_of_rows(row, rows, packed, g * NU * VL, gates, pass);
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
