/* The scan of codes of one bit, 32 at a time: fast-scan (Andre, Kermarrec and Le Scouarnec, VLDB 2016).
 *
 * What four dimensions add to a product depends on four bits of a code, so a table of 16 bytes has it, and one shuffle
 * looks up 32 documents. Queries are rounded so that what is in a table fits into 8 bits, and products into 16. */
#include "kernels.h"
#ifdef __ARM_NEON
#include <arm_neon.h>
#endif

#define BLOCK 32      /* codes whose bytes lie together: the first of each, then the second of each, ... */
#define TILE (64 * BLOCK) /* slots that several groups look at in turn, while they are in the nearest caches */
#define CORNERS 16    /* of four bits */
#define MOST 253.0f   /* steps in a table, and two more by rounding */
#define TOTAL 65000.0f /* steps in all tables */

typedef struct {
    uint8_t *tables; /* two of 16 bytes for each byte of a code, its lower half's first */
    float step, sum; /* a product is step * 2 * score + sum */
    Scored *kept;
    int64_t count, room;
    int32_t threshold; /* what scores no more is not among the best */
} Group;

DEFINE_KEEP_BEST(Scored, keep_best, better_first)

static void tabulate(Group *group, const float *query, int64_t bytes) {
    float greatest = TINY, total = 0;
    for (int64_t n = 0; n < 2 * bytes; n++) {
        float span = 0;
        for (int j = 0; j < 4; j++) span += fabsf(query[4 * n + j]);
        greatest = fmaxf(greatest, span), total += span;
    }
    /* Half a step of rounding a dimension comes to the total. */
    group->step = fmaxf(greatest / MOST, total / fmaxf(TOTAL - 4 * (float)bytes, 1));
    int64_t lowest = 0, all = 0;
    for (int64_t n = 0; n < 2 * bytes; n++) {
        int32_t steps[4], least = 0;
        for (int j = 0; j < 4; j++) {
            steps[j] = (int32_t)rintf(query[4 * n + j] / group->step);
            least += steps[j] < 0 ? steps[j] : 0, all += steps[j];
        }
        lowest += least;
        for (int corner = 0; corner < CORNERS; corner++) {
            int32_t entry = -least;
            for (int j = 0; j < 4; j++) entry += corner >> j & 1 ? steps[j] : 0;
            group->tables[CORNERS * n + corner] = (uint8_t)entry;
        }
    }
    group->sum = group->step * (float)(2 * lowest - all);
}

/* Return which of a block's documents score more than a threshold, a bit each; if any does, `scores` are those of all. */
#if defined(__AVX2__)
static uint32_t above(const uint8_t *block, const uint8_t *tables, int64_t bytes, int32_t threshold, uint16_t *scores) {
    const __m256i half = _mm256_set1_epi8(15);
    __m256i both = _mm256_setzero_si256(), odd = both;
    for (int64_t j = 0; j < bytes; j++) {
        __m256i codes = _mm256_loadu_si256((const __m256i *)(block + BLOCK * j));
        const __m128i *table = (const __m128i *)(tables + 2 * CORNERS * j);
        __m256i low = _mm256_broadcastsi128_si256(_mm_loadu_si128(table));
        __m256i high = _mm256_broadcastsi128_si256(_mm_loadu_si128(table + 1));
        low = _mm256_shuffle_epi8(low, _mm256_and_si256(codes, half));
        high = _mm256_shuffle_epi8(high, _mm256_and_si256(_mm256_srli_epi16(codes, 4), half));
        both = _mm256_add_epi16(both, _mm256_add_epi16(low, high)); /* the even documents' and 256 times the odd ones' */
        odd = _mm256_add_epi16(odd, _mm256_add_epi16(_mm256_srli_epi16(low, 8), _mm256_srli_epi16(high, 8)));
    }
    __m256i even = _mm256_sub_epi16(both, _mm256_slli_epi16(odd, 8));
    if (threshold >= 0) {
        const __m256i bar = _mm256_set1_epi16((int16_t)threshold);
        __m256i below = _mm256_and_si256(_mm256_cmpeq_epi16(_mm256_max_epu16(even, bar), bar),
                                         _mm256_cmpeq_epi16(_mm256_max_epu16(odd, bar), bar));
        if (_mm256_movemask_epi8(below) == -1) return 0;
    }
    __m256i first = _mm256_unpacklo_epi16(even, odd), second = _mm256_unpackhi_epi16(even, odd);
    _mm256_storeu_si256((__m256i *)scores, _mm256_permute2x128_si256(first, second, 0x20));
    _mm256_storeu_si256((__m256i *)(scores + 16), _mm256_permute2x128_si256(first, second, 0x31));
    uint32_t found = 0;
    for (int i = 0; i < BLOCK; i++) found |= (uint32_t)(scores[i] > threshold) << i;
    return found;
}
#else
static uint32_t above(const uint8_t *block, const uint8_t *tables, int64_t bytes, int32_t threshold, uint16_t *scores) {
#if defined(__ARM_NEON) && defined(__aarch64__)
    uint16x8_t sums[4] = {vdupq_n_u16(0), vdupq_n_u16(0), vdupq_n_u16(0), vdupq_n_u16(0)};
    for (int64_t j = 0; j < bytes; j++) {
        uint8x16_t low = vld1q_u8(tables + 2 * CORNERS * j), high = vld1q_u8(tables + 2 * CORNERS * j + CORNERS);
        for (int side = 0; side < 2; side++) {
            uint8x16_t codes = vld1q_u8(block + BLOCK * j + 16 * side);
            uint8x16_t first = vqtbl1q_u8(low, vandq_u8(codes, vdupq_n_u8(15)));
            uint8x16_t second = vqtbl1q_u8(high, vshrq_n_u8(codes, 4));
            sums[2 * side] = vaddq_u16(sums[2 * side], vaddl_u8(vget_low_u8(first), vget_low_u8(second)));
            sums[2 * side + 1] = vaddq_u16(sums[2 * side + 1], vaddl_u8(vget_high_u8(first), vget_high_u8(second)));
        }
    }
    for (int i = 0; i < 4; i++) vst1q_u16(scores + 8 * i, sums[i]);
#else
    memset(scores, 0, BLOCK * sizeof(uint16_t));
    for (int64_t j = 0; j < bytes; j++) {
        const uint8_t *low = tables + 2 * CORNERS * j, *high = low + CORNERS;
        for (int i = 0; i < BLOCK; i++) {
            uint8_t code = block[BLOCK * j + i];
            scores[i] += (uint16_t)(low[code & 15] + high[code >> 4]);
        }
    }
#endif
    uint32_t found = 0;
    for (int i = 0; i < BLOCK; i++) found |= (uint32_t)(scores[i] > threshold) << i;
    return found;
}
#endif

static void raise_threshold(Group *group, int64_t k) {
    keep_best(group->kept, group->count, k);
    group->count = k;
    group->threshold = group->kept[0].score;
    for (int64_t i = 1; i < k; i++)
        if (group->kept[i].score < group->threshold) group->threshold = group->kept[i].score;
}

/* Scan the codes in slots `from` (the first of a block) to `end` for a group. */
static void scan(Group *group, const uint8_t *blocks, const uint32_t *places, int64_t bytes, int64_t from, int64_t end,
                 int64_t k, const uint8_t *allowed) {
    uint16_t scores[BLOCK];
    for (; from < end; from += BLOCK) {
        uint32_t found = above(blocks + from * bytes, group->tables, bytes, group->threshold, scores);
        if (end - from < BLOCK) found &= (1u << (end - from)) - 1;
        for (; found; found &= found - 1) {
            int i = __builtin_ctz(found);
            uint32_t place = places ? places[from + i] : (uint32_t)(from + i);
            if (allowed && !(allowed[place >> 3] >> (place & 7) & 1)) continue;
            group->kept[group->count++] = (Scored){scores[i], place};
        }
        if (group->count + BLOCK > group->room) raise_threshold(group, k);
    }
}

typedef struct {
    int64_t list, group;
} Look;

static int in_order(const void *a, const void *b) {
    const Look *one = a, *other = b;
    if (one->list != other->list) return one->list < other->list ? -1 : 1;
    return one->group < other->group ? -1 : one->group > other->group;
}

/* Find the k best of what is in the lists that each group looks into.
 *
 * blocks: codes of `bytes` bytes in blocks, list after list; starts, sizes: the slot where each list begins, which is the
 * first of a block, and how many codes are in it; places: of each slot the position that its code has, or NULL where these
 * are the same. lists: those of the first group, then of the next, ...; ends: where those of each group end. queries:
 * (groups, 8 * bytes). allowed: a bitmap of positions, or NULL. What of each group was found is in its row of `positions`
 * and `products`, (groups, k), in no order, and how many in `counts`. */
API int bitfold_scan(const uint8_t *blocks, const uint32_t *places, int64_t bytes, const int64_t *starts,
                     const int64_t *sizes, const int64_t *lists, const int64_t *ends, const float *queries,
                     int64_t groups, int64_t k, const uint8_t *allowed, int64_t *positions, float *products,
                     int64_t *counts) {
    int status = NO_MEMORY;
    int64_t made = 0, room = 2 * k + 2 * BLOCK, n = ends[groups - 1];
    Group *all = malloc(sizeof(Group) * groups);
    Look *looks = malloc(sizeof(Look) * (n + 1));
    if (!all || !looks) goto end;
    for (; made < groups; made++) {
        all[made] = (Group){malloc(2 * CORNERS * bytes), 0, 0, malloc(sizeof(Scored) * room), 0, room, -1};
        if (!all[made].tables || !all[made].kept) {
            made++;
            goto end;
        }
        tabulate(all + made, queries + made * 8 * bytes, bytes);
    }
    for (int64_t i = 0, g = 0; i < n; i++) {
        while (i >= ends[g]) g++;
        looks[i] = (Look){lists[i], g};
    }
    /* One group goes on from near lists to far ones; several take each list in turn, a tile at a time. */
    if (groups > 1) qsort(looks, n, sizeof(Look), in_order);
    for (int64_t i = 0, next; i < n; i = next) {
        int64_t list = looks[i].list, start = starts[list], end = start + sizes[list];
        for (next = i; next < n && looks[next].list == list;) next++;
        /* The memory's own look-ahead stops where a list ends. */
        if (next < n) fetch(blocks + starts[looks[next].list] * bytes, 4 * LINE);
        for (int64_t from = start; from < end; from += TILE)
            for (int64_t look = i; look < next; look++)
                scan(all + looks[look].group, blocks, places, bytes, from, end < from + TILE ? end : from + TILE, k, allowed);
    }
    for (int64_t g = 0; g < groups; g++) {
        if (all[g].count > k) raise_threshold(all + g, k);
        counts[g] = all[g].count;
        for (int64_t i = 0; i < all[g].count; i++) {
            positions[g * k + i] = all[g].kept[i].at;
            products[g * k + i] = all[g].step * 2 * (float)all[g].kept[i].score + all[g].sum;
        }
    }
    status = 0;
end:
    for (int64_t g = 0; g < made; g++) free(all[g].tables), free(all[g].kept);
    free(all), free(looks);
    return status;
}

/* The product of whole numbers from -127 to 127. */
static int32_t byte_product(const int8_t *row, const int8_t *query, int64_t n) {
    int32_t sum = 0;
    int64_t at = 0;
#ifdef __AVX2__
    const __m256i ones = _mm256_set1_epi16(1);
    __m256i sums = _mm256_setzero_si256();
    for (; at + 32 <= n; at += 32) {
        __m256i a = _mm256_loadu_si256((const __m256i *)(row + at)), b = _mm256_loadu_si256((const __m256i *)(query + at));
        /* Of two products at most 127 * 127 each the sum is within 16 bits. */
        __m256i pairs = _mm256_maddubs_epi16(_mm256_abs_epi8(a), _mm256_sign_epi8(b, a));
        sums = _mm256_add_epi32(sums, _mm256_madd_epi16(pairs, ones));
    }
    sum = sum_of(sums);
#endif
    for (; at < n; at++) sum += row[at] * query[at];
    return sum;
}

/* Find which of (n, d) rows of whole numbers, each dimension in steps of its own, have the largest products with a
 * query. Puts the best `count` into `found`, best first. */
API int bitfold_nearest(const int8_t *rows, int64_t n, int64_t d, const float *steps, const float *query, int64_t count,
                        int64_t *found) {
    int8_t *rounded = malloc(d);
    Scored *scored = malloc(sizeof(Scored) * (n + 1));
    int status = rounded && scored ? 0 : NO_MEMORY;
    if (!status) {
        float greatest = TINY;
        for (int64_t j = 0; j < d; j++) greatest = fmaxf(greatest, fabsf(query[j] * steps[j]));
        for (int64_t j = 0; j < d; j++) rounded[j] = (int8_t)rintf(query[j] * steps[j] * (127 / greatest));
        for (int64_t i = 0; i < n; i++) scored[i] = (Scored){byte_product(rows + i * d, rounded, d), (uint32_t)i};
        if (count < n) keep_best(scored, n, count);
        qsort(scored, count, sizeof(Scored), better_first);
        for (int64_t i = 0; i < count; i++) found[i] = scored[i].at;
    }
    free(rounded), free(scored);
    return status;
}
