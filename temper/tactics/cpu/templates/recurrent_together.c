/* Few rows over several threads: every share works on every step, each on its own groups of hidden units.
 *
 * A step (a pass of it, for a GRU that resets before its product) is CHUNKS pieces, one a group and direction; each is claimed by
 * compare-and-swap, so that it is computed once by whichever share comes first. Shares need not run at the same time: one that is
 * alone takes all pieces of every step, and one that comes late finds them taken. A share takes the pieces of its own range first,
 * since its cache holds their part of R; it takes another's only after waiting PATIENCE turns, or at once while that one is not
 * there. It waits only for pieces that a running share has claimed.
 *
 * Shared memory: finished pieces of the whole run; claimed pieces of each range (a cache line each); states, HP floats a row. */
#define PASSES (GATES2 ? 2 : 1)
#define CHUNKS ((int64_t)DIRECTIONS * GROUPS)
#define ALL ((int64_t)DIRECTIONS * BATCH)
#define PATIENCE 400

typedef struct {
  _Alignas(64) int64_t n;
} line_t;

/* State k (0 and 1: h of even and odd steps; then c or z; then r * h) of row r. */
INLINE float *state(line_t *lines, int64_t k, int64_t r) { return (float *)(lines + 1 + HOMES) + (k * ALL + r) * HP; }

EXPORT void ENTRY_START(void *const *p, const int64_t *v, int32_t part, int32_t parts) {
  line_t *lines = p[P_WS];
  if (part) return;
  for (int i = 0; i < 1 + HOMES; i++) lines[i].n = 0;
  const float *h0 = P_H0 >= 0 ? p[P_H0 >= 0 ? P_H0 : 0] : 0, *c0 = P_C0 >= 0 ? p[P_C0 >= 0 ? P_C0 : 0] : 0;
  for (int64_t r = 0; r < ALL; r++) {
    for (int k = 0; k < STATES; k++) copy(state(lines, k, r), 0, HP);
    copy(state(lines, 0, r), h0 ? h0 + r * HIDDEN : 0, HIDDEN);
    if (CELL == LSTM) copy(state(lines, 2, r), c0 ? c0 + r * HIDDEN : 0, HIDDEN);
  }
}

/* A piece of phase f out of a range of `count`, or -1 if all are taken. All earlier phases are finished. */
INLINE int64_t claim(line_t *range, int64_t count, int64_t f) {
  int64_t n = __atomic_load_n(&range->n, __ATOMIC_ACQUIRE);
  while (n < (f + 1) * count)
    if (__atomic_compare_exchange_n(&range->n, &n, n + 1, 0, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE)) return n - f * count;
  return -1;
}

INLINE void piece(const row_t *row, const float *packed, int64_t q, int64_t pass) {
  const int64_t d = q / GROUPS, g = q % GROUPS;
  const float *r = packed + d * PACKED;
#if GATES2
  if (pass) {
    group_of_rows(row + d * BATCH, BATCH, r + PASS1 + g * HIDDEN * NU * GATES2 * VL, g * NU * VL, GATES2, 1);
    return;
  }
#endif
  group_of_rows(row + d * BATCH, BATCH, r + g * HIDDEN * NU * GATES * VL, g * NU * VL, GATES, 0);
}

EXPORT void ENTRY(void *const *p, const int64_t *v, int32_t part, int32_t parts) {
  const int64_t steps = STEPS;
  const int homes = parts < HOMES ? parts : HOMES;
  const float *gates = p[P_GATES], *packed = p[P_PACKED];
  const float *bias = CANDIDATE_BIAS ? p[P_BIAS] : 0, *peep = PEEPHOLES ? p[P_PEEP] : 0;
  float *y = p[P_Y];
  line_t *lines = p[P_WS];
  row_t row[ALL];
  int patience = PATIENCE;
  for (int64_t f = 0; f < steps * PASSES; f++) {
    const int64_t s = f / PASSES, pass = f % PASSES;
    for (int64_t r = 0; r < ALL; r++) {
      const int64_t d = r / BATCH, b = r % BATCH, t = (d ? REVERSE1 : REVERSE0) ? steps - 1 - s : s;
      const int64_t at = BATCH_FIRST ? b * steps + t : t * BATCH + b;
      row[r] = (row_t){.x = gates + at * GATES_STRIDE + d * (GATES + GATES2) * HIDDEN, .y = y + at * Y_STRIDE + d * HIDDEN,
                       .h = state(lines, s & 1, r), .next = state(lines, !(s & 1), r), .c = state(lines, 2, r),
                       .z = state(lines, 2, r), .rh = state(lines, 3, r), .peep = peep + d * 3 * HIDDEN,
                       .bias = bias + d * HIDDEN, .d = (int)d};
    }
    int64_t lo, hi, q, mine = 0;
    if (part < homes) {
      share(CHUNKS, part, homes, &lo, &hi);
      while ((q = claim(lines + 1 + part, hi - lo, f)) >= 0) piece(row, packed, lo + q, pass), mine++;
      if (mine) __atomic_fetch_add(&lines[0].n, mine, __ATOMIC_ACQ_REL);
    }
    for (int turns = 0; __atomic_load_n(&lines[0].n, __ATOMIC_ACQUIRE) < (f + 1) * CHUNKS; turns++) {
      if (turns < patience) {
        __builtin_ia32_pause();
        continue;
      }
      for (int other = 0; other < homes; other++) {
        share(CHUNKS, other, homes, &lo, &hi);
        if (other == part || lo == hi) continue;
        patience = __atomic_load_n(&lines[1 + other].n, __ATOMIC_ACQUIRE) == f * (hi - lo) ? 0 : PATIENCE;
        while ((q = claim(lines + 1 + other, hi - lo, f)) >= 0) {
          piece(row, packed, lo + q, pass);
          __atomic_fetch_add(&lines[0].n, 1, __ATOMIC_ACQ_REL);
        }
      }
      __builtin_ia32_pause();
    }
  }
  if (part) return;
  for (int64_t r = 0; r < ALL; r++) {
    copy((float *)p[P_LAST_H] + r * HIDDEN, state(lines, steps & 1, r), HIDDEN);
    if (CELL == LSTM) copy((float *)p[P_LAST_C] + r * HIDDEN, state(lines, 2, r), HIDDEN);
  }
}
