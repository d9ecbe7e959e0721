/* Products of queries with codes, row by row, and the walk through a graph of codes.
 *
 * Rows are taken from where they lie and are asked for ahead: in an index larger than the caches the memory's latency
 * is most of what a product costs. A query of codes is made of whole numbers, `coarse * a + fine * b` with a and b of
 * 8 bits, so that a walk compares by a alone and what it keeps is scored by both, to 1 in 57,600 of the query's
 * greatest component. Compiled once for any machine, once for AVX2 (compile.py); the two give the same codes' scores.
 */
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#ifdef __AVX2__
#include <immintrin.h>
#endif

#define API __attribute__((visibility("default")))
#define LINE 64  /* bytes of a cache line */
#define AHEAD 6  /* rows asked for before they are scored */
#define NO_MEMORY (-1)
#define OUT_OF_RANGE (-2)

typedef struct {
    int8_t *coarse, *fine; /* m each; of nibbles the even dimensions first, then the odd ones */
    float coarse_step, fine_step, sum;
} Query;

static void fetch(const void *row, int64_t bytes) {
    for (int64_t at = 0; at < bytes; at += LINE) __builtin_prefetch((const char *)row + at);
}

static int quantize(Query *made, const float *query, int64_t m, int nibbles) {
    float greatest = 1e-30f;
    for (int64_t j = 0; j < m; j++) greatest = fmaxf(greatest, fabsf(query[j]));
    made->coarse_step = greatest / 120; /* a multiple of 15, 3 and 1: a query of levels is exact without the fine part */
    made->fine_step = made->coarse_step / 240; /* what rounding leaves is half a step at most */
    made->coarse = malloc(2 * m);
    if (!made->coarse) return NO_MEMORY;
    made->fine = made->coarse + m;
    int64_t coarse_sum = 0, fine_sum = 0;
    for (int64_t j = 0; j < m; j++) {
        int64_t at = nibbles ? j / 2 + (j % 2) * (m / 2) : j;
        float coarse = rintf(query[j] / made->coarse_step);
        float fine = rintf((query[j] - coarse * made->coarse_step) / made->fine_step);
        made->coarse[at] = (int8_t)coarse;
        made->fine[at] = (int8_t)fine;
        coarse_sum += (int64_t)coarse, fine_sum += (int64_t)fine;
    }
    made->sum = made->coarse_step * (float)coarse_sum + made->fine_step * (float)fine_sum;
    return 0;
}

/* Of a product with levels c of p planes, that with what they stand for: (2 c - K) / 2^(p - 1), K = 2^p - 1. */
static float value_product(const Query *made, int64_t planes, int32_t coarse, int32_t fine) {
    float levels = made->coarse_step * (float)coarse + made->fine_step * (float)fine;
    int32_t unit = 1 << planes;
    return (2 * levels - (float)(unit - 1) * made->sum) * (2.0f / (float)unit);
}

#ifdef __AVX2__
static int32_t sum_of(__m256i sums) {
    __m128i half = _mm_add_epi32(_mm256_castsi256_si128(sums), _mm256_extracti128_si256(sums, 1));
    half = _mm_add_epi32(half, _mm_shuffle_epi32(half, 0x4e));
    return _mm_cvtsi128_si32(_mm_add_epi32(half, _mm_shuffle_epi32(half, 0xb1)));
}
#endif

/* The product of whole numbers of 8 bits with a row of nibbles, the lower one of a byte first. */
static int32_t nibble_product(const uint8_t *row, const int8_t *query, int64_t bytes) {
    const int8_t *even = query, *odd = query + bytes;
    int32_t sum = 0;
    int64_t at = 0;
#ifdef __AVX2__
    const __m256i low = _mm256_set1_epi8(15), ones = _mm256_set1_epi16(1);
    __m256i sums = _mm256_setzero_si256();
    for (; at + 32 <= bytes; at += 32) {
        __m256i both = _mm256_loadu_si256((const __m256i *)(row + at));
        __m256i first = _mm256_and_si256(both, low), second = _mm256_and_si256(_mm256_srli_epi16(both, 4), low);
        /* Two products of at most 15 * 120 each, twice: within 16 bits. */
        __m256i pairs = _mm256_add_epi16(_mm256_maddubs_epi16(first, _mm256_loadu_si256((const __m256i *)(even + at))),
                                         _mm256_maddubs_epi16(second, _mm256_loadu_si256((const __m256i *)(odd + at))));
        sums = _mm256_add_epi32(sums, _mm256_madd_epi16(pairs, ones));
    }
    sum = sum_of(sums);
#endif
    for (; at < bytes; at++) sum += (row[at] & 15) * even[at] + (row[at] >> 4) * odd[at];
    return sum;
}

/* The same with the levels that the planes of a row make, the first plane weighing most. */
static int32_t plane_product(const uint8_t *row, int64_t planes, int64_t bytes, const int8_t *query) {
    int32_t sum = 0;
    int64_t at = 0;
#ifdef __AVX2__
    const __m256i ones = _mm256_set1_epi16(1), bits = _mm256_set1_epi64x((int64_t)0x8040201008040201);
    const __m256i spread = _mm256_setr_epi8(0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1,
                                            2, 2, 2, 2, 2, 2, 2, 2, 3, 3, 3, 3, 3, 3, 3, 3);
    __m256i sums = _mm256_setzero_si256();
    for (; at + 4 <= bytes; at += 4) {
        __m256i levels = _mm256_setzero_si256();
        for (int64_t t = 0; t < planes; t++) {
            int32_t word;
            memcpy(&word, row + t * bytes + at, 4);
            __m256i flags = _mm256_and_si256(_mm256_shuffle_epi8(_mm256_set1_epi32(word), spread), bits);
            levels = _mm256_sub_epi8(_mm256_add_epi8(levels, levels), _mm256_cmpeq_epi8(flags, bits));
        }
        __m256i pairs = _mm256_maddubs_epi16(levels, _mm256_loadu_si256((const __m256i *)(query + 8 * at)));
        sums = _mm256_add_epi32(sums, _mm256_madd_epi16(pairs, ones));
    }
    sum = sum_of(sums);
#endif
    for (; at < bytes; at++)
        for (int bit = 0; bit < 8; bit++) {
            int32_t level = 0;
            for (int64_t t = 0; t < planes; t++) level = 2 * level + (row[t * bytes + at] >> bit & 1);
            sum += level * query[8 * at + bit];
        }
    return sum;
}

/* Products of a query with the values of some of `rows` rows, each `stride` bytes behind the last: of the first `planes`
 * planes, of `bytes` bytes each, (8 * bytes,) components; with `planes` 0 of `bytes` bytes of nibbles, (2 * bytes,). */
API int bitfold_products(const uint8_t *codes, int64_t rows, int64_t stride, int64_t planes, int64_t bytes,
                         const int64_t *positions, int64_t n, const float *query, float *products) {
    Query made;
    int status = quantize(&made, query, planes ? 8 * bytes : 2 * bytes, !planes);
    if (status) return status;
    for (int64_t i = 0; i < n; i++) {
        if (i + AHEAD < n) fetch(codes + positions[i + AHEAD] * stride, planes ? planes * bytes : bytes);
        if ((uint64_t)positions[i] >= (uint64_t)rows) {
            status = OUT_OF_RANGE;
            break;
        }
        const uint8_t *row = codes + positions[i] * stride;
        products[i] = planes ? value_product(&made, planes, plane_product(row, planes, bytes, made.coarse),
                                             plane_product(row, planes, bytes, made.fine))
                             : value_product(&made, 4, nibble_product(row, made.coarse, bytes),
                                             nibble_product(row, made.fine, bytes));
    }
    free(made.coarse);
    return status;
}

typedef struct {
    int32_t score, node;
} Met;

/* A heap: `sign` 1 has the best on top, -1 the worst. */
static void rise(Met *heap, int64_t at, int sign) {
    Met met = heap[at];
    while (at && sign * heap[(at - 1) / 2].score < sign * met.score) {
        heap[at] = heap[(at - 1) / 2];
        at = (at - 1) / 2;
    }
    heap[at] = met;
}

static void sink(Met *heap, int64_t size, int sign) {
    Met met = heap[0];
    int64_t at = 0;
    for (int64_t child; (child = 2 * at + 1) < size; at = child) {
        if (child + 1 < size && sign * heap[child + 1].score > sign * heap[child].score) child++;
        if (sign * heap[child].score <= sign * met.score) break;
        heap[at] = heap[child];
    }
    heap[at] = met;
}

/* The nodes that a walk has met: an open hash table of node + 1. */
typedef struct {
    uint32_t *slots, mask, count;
} Seen;

static int was_seen(Seen *seen, uint32_t node) {
    uint32_t at = node * 2654435769u >> 8 & seen->mask;
    for (; seen->slots[at]; at = (at + 1) & seen->mask)
        if (seen->slots[at] == node + 1) return 1;
    seen->slots[at] = node + 1;
    seen->count++;
    return 0;
}

static int grow_seen(Seen *seen) {
    Seen wider = {calloc(2 * ((size_t)seen->mask + 1), sizeof(uint32_t)), 2 * seen->mask + 1, 0};
    if (!wider.slots) return NO_MEMORY;
    for (uint32_t at = 0; at <= seen->mask; at++)
        if (seen->slots[at]) was_seen(&wider, seen->slots[at] - 1);
    free(seen->slots);
    *seen = wider;
    return 0;
}

/* Walk through an HNSW graph (Malkov and Yashunin, arXiv 1603.09320) over rows of nibbles.
 *
 * neighbours: node by node and level by level, 2 * links of the lowest and `links` of each higher level, -1 behind the
 * last; starts: where those of a node begin, in units of `links`. Returns how many of the `width` nearest nodes it met
 * are in `positions`, best first, with their products in `products`; or an error. */
API int64_t bitfold_walk(const uint8_t *codes, int64_t rows, int64_t bytes, const int32_t *neighbours,
                         const uint32_t *starts, int64_t links, int64_t entry, int64_t highest, const float *query,
                         int64_t width, int64_t *positions, float *products) {
    Query made;
    if (quantize(&made, query, 2 * bytes, 1)) return NO_MEMORY;
    int64_t room = 4 * width + 64, waiting = 0, kept = 0, status = NO_MEMORY;
    Met *best = malloc(sizeof(Met) * (width + 1)), *next = malloc(sizeof(Met) * room);
    int32_t *fresh = malloc(sizeof(int32_t) * 2 * links);
    uint32_t slots = 1024;
    while (slots < 32 * (uint64_t)width && slots < 1u << 30) slots *= 2;
    Seen seen = {calloc(slots, sizeof(uint32_t)), slots - 1, 0};
    if (!best || !next || !fresh || !seen.slots) goto end;

    Met here = {nibble_product(codes + entry * bytes, made.coarse, bytes), (int32_t)entry};
    for (int64_t level = highest; level > 0; level--)
        for (int moved = 1; moved;) {
            const int32_t *around = neighbours + ((int64_t)starts[here.node] + level + 1) * links;
            moved = 0;
            for (int64_t k = 0; k < links && (uint64_t)around[k] < (uint64_t)rows; k++)
                fetch(codes + (int64_t)around[k] * bytes, bytes);
            for (int64_t k = 0; k < links && (uint64_t)around[k] < (uint64_t)rows; k++) {
                int32_t score = nibble_product(codes + (int64_t)around[k] * bytes, made.coarse, bytes);
                if (score > here.score) here = (Met){score, around[k]}, moved = 1;
            }
        }

    was_seen(&seen, (uint32_t)here.node);
    best[kept++] = next[waiting++] = here;
    while (waiting && (kept < width || next[0].score >= best[0].score)) {
        const int32_t *around = neighbours + (int64_t)starts[next[0].node] * links;
        next[0] = next[--waiting];
        if (waiting) sink(next, waiting, 1);
        if (2 * (seen.count + 2 * (uint64_t)links) > seen.mask && grow_seen(&seen)) goto end;
        int64_t found = 0;
        for (int64_t k = 0; k < 2 * links && (uint64_t)around[k] < (uint64_t)rows; k++)
            if (!was_seen(&seen, (uint32_t)around[k])) {
                fresh[found++] = around[k];
                fetch(codes + (int64_t)around[k] * bytes, bytes);
            }
        /* What comes next is most likely the best that waits. */
        if (waiting) fetch(neighbours + (int64_t)starts[next[0].node] * links, 2 * links * (int64_t)sizeof(int32_t));
        for (int64_t k = 0; k < found; k++) {
            Met met = {nibble_product(codes + (int64_t)fresh[k] * bytes, made.coarse, bytes), fresh[k]};
            if (kept == width && met.score <= best[0].score) continue;
            if (waiting == room) {
                Met *wider = realloc(next, sizeof(Met) * 2 * room);
                if (!wider) goto end;
                next = wider, room *= 2;
            }
            __builtin_prefetch(starts + met.node);
            next[waiting] = met;
            rise(next, waiting++, 1);
            if (kept < width) {
                best[kept] = met;
                rise(best, kept++, -1);
            } else {
                best[0] = met;
                sink(best, kept, -1);
            }
        }
    }
    status = kept;
    while (kept) {
        Met worst = best[0];
        best[0] = best[--kept];
        if (kept) sink(best, kept, -1);
        const uint8_t *row = codes + (int64_t)worst.node * bytes;
        positions[kept] = worst.node;
        products[kept] = value_product(&made, 4, worst.score, nibble_product(row, made.fine, bytes));
        /* The fine part may turn round what was next to each other. */
        for (int64_t at = kept; at + 1 < status && products[at] < products[at + 1]; at++) {
            float product = products[at];
            int64_t position = positions[at];
            products[at] = products[at + 1], positions[at] = positions[at + 1];
            products[at + 1] = product, positions[at + 1] = position;
        }
    }
end:
    free(made.coarse), free(best), free(next), free(fresh), free(seen.slots);
    return status;
}
