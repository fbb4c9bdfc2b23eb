/* Tree ensembles: every row of X goes down every tree; the entries of the leaves it reaches are aggregated per target.
 *
 * Rows are taken in blocks, so that a tree's nodes are read once a block, and GROUP rows of a block step down together:
 * their loads do not wait for each other. A tree takes as many steps as it is deep; leaves lead to themselves. The rows
 * that fill no group go down GROUP trees together. Sums are kept in double, tree by tree, and rounded once.
 *
 * Defined by the tactic (dimensions may read v[]): T (type of data and thresholds), ROWS, X_ROW, Y_ROW, TARGETS, TREES, BLOCK,
 * AGGREGATE (0 sum, 1 average, 2 least, 3 greatest). Packed operands: see Trees.prepack. */

typedef struct {
    T threshold;
    int32_t feature; /* bits 0-27: column of X; bits 28-29: TEST_*; bit 30: a missing value (NaN) goes to child[0] */
    int32_t child[2]; /* if the test holds, and if not; numbers of nodes */
    int32_t set[2]; /* TEST_MEMBER: range of members */
} node_t;

enum { TEST_LEQ, TEST_EQ, TEST_MEMBER };
enum { GROUP = 8 };

INLINE int holds(T value, const node_t *n, const T *members)
{
    const int test = n->feature >> 28 & 3;
    int yes = test == TEST_LEQ ? value <= n->threshold : value == n->threshold;
    if (test == TEST_MEMBER) {
        yes = 0;
        for (int32_t k = n->set[0]; k < n->set[1]; k++)
            yes |= value == members[k];
    }
    return yes | ((value != value) & n->feature >> 30);
}

/* GROUP steps down together: lane k takes row x[k] from node at[k] to a leaf. plain: all tests are TEST_LEQ. */
INLINE void descend(const T *const x[GROUP], int32_t depth, const node_t *nodes, const T *members, int plain, int32_t at[GROUP])
{
    for (int32_t d = 0; d < depth; d++)
        for (int k = 0; k < GROUP; k++) {
            const node_t *n = nodes + at[k];
            const T value = x[k][n->feature & 0xfffffff];
            const int yes = plain ? (value <= n->threshold) | ((value != value) & n->feature >> 30) : holds(value, n, members);
            at[k] = n->child[!yes];
        }
}

INLINE void take(double *sum, char *reached, double weight)
{
#if AGGREGATE == 2
    *sum = *reached && *sum <= weight ? *sum : weight;
#elif AGGREGATE == 3
    *sum = *reached && *sum >= weight ? *sum : weight;
#else
    *sum += weight;
#endif
    *reached = 1;
}

/* Adds the entries of one leaf to a row's sums. */
INLINE void enter(double *sum, char *reached, int32_t leaf, int32_t single, const int32_t *starts, const int32_t *targets, const T *weights)
{
    if (single)
        take(sum, reached, weights[leaf]);
    else
        for (int32_t e = starts[leaf]; e < starts[leaf + 1]; e++)
            take(sum + targets[e], reached + targets[e], weights[e]);
}

EXPORT void ENTRY(void *const *p, const int64_t *v, int32_t part, int32_t parts)
{
    (void)v;
    const T *x = p[0];
    T *y = p[1];
    const node_t *nodes = p[2];
    const T *members = p[3];
    const int32_t *roots = p[4]; /* root and depth of each tree */
    const int32_t *starts = p[5]; /* of each leaf's entries */
    const int32_t *targets = p[6];
    const T *weights = p[7];
    const int32_t *facts = p[8]; /* number of inner nodes; all tests TEST_LEQ; one entry a leaf and one target */
    const int32_t inner = facts[0], plain = facts[1], single = facts[2];
    int64_t row, end;
    share(ROWS, part, parts, &row, &end);
    for (; row < end; row += BLOCK) {
        const int64_t rows = end - row < BLOCK ? end - row : BLOCK;
        double sum[BLOCK][TARGETS];
        char reached[BLOCK][TARGETS];
        for (int64_t r = 0; r < rows; r++)
            for (int64_t t = 0; t < TARGETS; t++)
                sum[r][t] = 0, reached[r][t] = 0;
        const int64_t full = rows / GROUP * GROUP;
        const T *lane[GROUP];
        int32_t at[GROUP];
        for (int64_t tree = 0; tree < TREES; tree++)
            for (int64_t r = 0; r < full; r += GROUP) { /* lanes are rows */
                for (int k = 0; k < GROUP; k++)
                    lane[k] = x + (row + r + k) * (X_ROW), at[k] = roots[2 * tree];
                if (plain)
                    descend(lane, roots[2 * tree + 1], nodes, members, 1, at);
                else
                    descend(lane, roots[2 * tree + 1], nodes, members, 0, at);
                for (int k = 0; k < GROUP; k++)
                    enter(sum[r + k], reached[r + k], at[k] - inner, single, starts, targets, weights);
            }
        for (int64_t r = full; r < rows; r++) /* too few rows are left: lanes are trees */
            for (int64_t tree = 0; tree < TREES; tree += GROUP) {
                const int count = TREES - tree < GROUP ? (int)(TREES - tree) : GROUP;
                int32_t depth = 0;
                for (int k = 0; k < GROUP; k++) {
                    const int64_t which = tree + (k < count ? k : 0);
                    lane[k] = x + (row + r) * (X_ROW), at[k] = roots[2 * which];
                    depth = roots[2 * which + 1] > depth ? roots[2 * which + 1] : depth;
                }
                if (plain)
                    descend(lane, depth, nodes, members, 1, at);
                else
                    descend(lane, depth, nodes, members, 0, at);
                for (int k = 0; k < count; k++)
                    enter(sum[r], reached[r], at[k] - inner, single, starts, targets, weights);
            }
        for (int64_t r = 0; r < rows; r++)
            for (int64_t t = 0; t < TARGETS; t++)
                y[(row + r) * (Y_ROW) + t] = (T)(AGGREGATE == 1 && TREES > 1 ? sum[r][t] / (TREES) : sum[r][t]);
    }
}
