/* The K first elements of every line of [OUTER, LENGTH, INNER] in descending (LARGEST) or ascending order, and their positions.
 *
 * Equal elements keep their order, and NaN is above all numbers. A heap holds the best so far with the worst of them at its root; it is
 * taken apart from the worst to the best. CHUNK elements at a time are compared with the root alone, since few beat it. Workspace: K
 * positions, then K elements. */

#define CHUNK 32

/* Element a at position i comes before b at j. */
INLINE int before(T a, int64_t i, T b, int64_t j)
{
    const int above = a > b || (a != a && b == b), below = b > a || (b != b && a == a);
    return (LARGEST ? above : below) || (!above && !below && i < j);
}

/* Element a comes before b, which stands earlier in the line. */
INLINE int beats(T a, T b)
{
    return LARGEST ? (a > b) | ((a != a) & (b == b)) : (b > a) | ((b != b) & (a == a));
}

/* Puts (a, i) where it belongs in the heap of n elements whose root is free. */
INLINE void sink(T *value, int64_t *at, int64_t n, T a, int64_t i)
{
    int64_t h = 0;
    for (int64_t child; (child = 2 * h + 1) < n; h = child) {
        if (child + 1 < n && before(value[child], at[child], value[child + 1], at[child + 1]))
            child++;
        if (before(value[child], at[child], a, i))
            break;
        value[h] = value[child], at[h] = at[child];
    }
    value[h] = a, at[h] = i;
}

EXPORT void ENTRY(void *const *p, const int64_t *v, int32_t part, int32_t parts)
{
    (void)v;
    const int64_t length = LENGTH, k = K, inner = INNER;
    int64_t *at = p[3];
    T *value = (T *)(at + k);
    int64_t lo, hi;
    if (k <= 0)
        return;
    share(OUTER * inner, part, parts, &lo, &hi);
    for (int64_t u = lo; u < hi; u++) {
        const T *x = (const T *)p[0] + u / inner * length * inner + u % inner;
        T *y = (T *)p[1] + u / inner * k * inner + u % inner;
        int64_t *index = (int64_t *)p[2] + u / inner * k * inner + u % inner;
        for (int64_t i = 0; i < k; i++) {
            const T a = x[i * inner];
            int64_t h = i;
            for (int64_t parent; h > 0 && before(value[parent = (h - 1) / 2], at[parent], a, i); h = parent)
                value[h] = value[parent], at[h] = at[parent];
            value[h] = a, at[h] = i;
        }
        for (int64_t i = k; i < length; i += CHUNK) {
            const int64_t end = i + CHUNK < length ? i + CHUNK : length;
            int any = 0;
            if (end == i + CHUNK)
                for (int64_t j = 0; j < CHUNK; j++)
                    any |= beats(x[(i + j) * inner], value[0]);
            else
                any = 1;
            for (int64_t j = i; any && j < end; j++)
                if (beats(x[j * inner], value[0]))
                    sink(value, at, k, x[j * inner], j);
        }
        for (int64_t n = k - 1; n >= 0; n--) {
            y[n * inner] = value[0], index[n * inner] = at[0];
            if (n)
                sink(value, at, n, value[n], at[n]);
        }
    }
}
