/* The K first elements of every line of [OUTER, LENGTH, INNER] in descending (LARGEST) or ascending order, and their positions.
 *
 * Equal elements keep their order, and NaN is above all numbers. A heap holds the best so far with the worst of them at its root; it is
 * taken apart from the worst to the best. CHUNK elements at a time are compared with the root alone, since few beat it.
 * KEYS (elements of at most 32 bits): the heap holds integers that order as (element, position) do. Otherwise it holds both; entries are
 * then compared by `before`. Workspace: K entries. */

#define CHUNK 32

#if KEYS
typedef int64_t entry_t;

/* An integer that orders as the element among its line's, the better the larger. */
INLINE int32_t rank_of(T a)
{
#if FLOATS
    int32_t b;
    const float f = a + 0.0f; /* one zero */
    __builtin_memcpy(&b, &f, 4);
    b = f != f ? INT32_MAX : b ^ ((b >> 31) & INT32_MAX);
#else
    const int32_t b = (int32_t)((int64_t)a - ((T)-1 > 0 && sizeof(T) == 4 ? 2147483648ll : 0));
#endif
    return LARGEST ? b : ~b;
}

INLINE entry_t entry_of(T a, int64_t i) { return (int64_t)rank_of(a) * 4294967296ll + (int64_t)(uint32_t)~(uint32_t)i; }
INLINE int64_t position(entry_t e) { return (int64_t)(uint32_t)~(uint32_t)e; }
INLINE int before(entry_t a, entry_t b) { return a > b; }
/* Element a, which stands later in the line, comes before the root. */
INLINE int beats(T a, int64_t root) { return rank_of(a) > (int32_t)(root >> 32); }
#else
typedef struct { T value; int64_t at; } entry_t;

INLINE entry_t entry_of(T a, int64_t i) { return (entry_t){a, i}; }
INLINE int64_t position(entry_t e) { return e.at; }
INLINE int before(entry_t a, entry_t b)
{
    const int above = a.value > b.value || (a.value != a.value && b.value == b.value);
    const int below = b.value > a.value || (b.value != b.value && a.value == a.value);
    return (LARGEST ? above : below) || (!above && !below && a.at < b.at);
}
INLINE int beats(T a, entry_t root)
{
    const T b = root.value;
    return LARGEST ? (a > b) | ((a != a) & (b == b)) : (b > a) | ((b != b) & (a == a));
}
#endif

/* Puts e where it belongs in the heap of n entries whose root is free. */
INLINE void sink(entry_t *heap, int64_t n, entry_t e)
{
    int64_t h = 0;
    for (int64_t child; (child = 2 * h + 1) < n; h = child) {
        if (child + 1 < n)
            child += before(heap[child], heap[child + 1]);
        if (!before(e, heap[child]))
            break;
        heap[h] = heap[child];
    }
    heap[h] = e;
}

EXPORT void ENTRY(void *const *p, const int64_t *v, int32_t part, int32_t parts)
{
    (void)v;
    const int64_t length = LENGTH, k = K, inner = INNER;
    entry_t *heap = p[3];
    int64_t lo, hi;
    if (k <= 0)
        return;
    share(OUTER * inner, part, parts, &lo, &hi);
    for (int64_t u = lo; u < hi; u++) {
        const T *x = (const T *)p[0] + u / inner * length * inner + u % inner;
        T *y = (T *)p[1] + u / inner * k * inner + u % inner;
        int64_t *index = (int64_t *)p[2] + u / inner * k * inner + u % inner;
        for (int64_t i = 0; i < k; i++) {
            const entry_t e = entry_of(x[i * inner], i);
            int64_t h = i;
            for (int64_t parent; h > 0 && before(heap[parent = (h - 1) / 2], e); h = parent)
                heap[h] = heap[parent];
            heap[h] = e;
        }
        for (int64_t i = k; i < length; i += CHUNK) {
            const int64_t end = i + CHUNK < length ? i + CHUNK : length;
            int any = end < i + CHUNK;
            if (!any)
                for (int64_t j = 0; j < CHUNK; j++)
                    any |= beats(x[(i + j) * inner], heap[0]);
            for (int64_t j = i; any && j < end; j++)
                if (beats(x[j * inner], heap[0]))
                    sink(heap, k, entry_of(x[j * inner], j));
        }
        for (int64_t n = k - 1; n >= 0; n--) {
            index[n * inner] = position(heap[0]);
            y[n * inner] = x[index[n * inner] * inner];
            if (n)
                sink(heap, n, heap[n]);
        }
    }
}
