/* What the kernels share. Compiled once for any machine, once for AVX2 (compile.py); the two give the same results.
 *
 * Rows are taken from where they lie and are asked for ahead: in an index larger than the caches the memory's latency
 * is most of what a product costs. */
#ifndef BITFOLD_KERNELS_H
#define BITFOLD_KERNELS_H
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#ifdef __AVX2__
#include <immintrin.h>
#endif

#define API __attribute__((visibility("default")))
#define LINE 64 /* bytes of a cache line */
#define NO_MEMORY (-1)
#define OUT_OF_RANGE (-2)
#define TINY 1e-30f

static inline void fetch(const void *row, int64_t bytes) {
    for (int64_t at = 0; at < bytes; at += LINE) __builtin_prefetch((const char *)row + at);
    __builtin_prefetch((const char *)row + bytes - 1); /* it may begin within a line */
}

/* What has a score: a node, a position, a list. */
typedef struct {
    int32_t score;
    uint32_t at;
} Scored;

/* Whether one is better than another, negative, or worse: of equal scores the one that comes first is better. */
#define BY_SCORE(one, other)                                             \
    ((one)->score != (other)->score ? ((one)->score < (other)->score) - ((one)->score > (other)->score) \
                                    : ((one)->at > (other)->at) - ((one)->at < (other)->at))

/* Define a function of a kind of scored things that puts the k best of n first, in no order, and one that compares two. */
#define DEFINE_KEEP_BEST(Kind, keep_best, compare)                                                  \
    static int compare(const void *a, const void *b) { return BY_SCORE((const Kind *)a, (const Kind *)b); } \
    static void keep_best(Kind *all, int64_t n, int64_t k) {                                        \
        for (int64_t low = 0, high = n - 1; low < high;) {                                          \
            Kind middle = all[low + (high - low) / 2];                                              \
            int64_t i = low, j = high;                                                              \
            while (i <= j) {                                                                        \
                while (BY_SCORE(all + i, &middle) < 0) i++;                                         \
                while (BY_SCORE(all + j, &middle) > 0) j--;                                         \
                if (i <= j) {                                                                       \
                    Kind other = all[i];                                                            \
                    all[i++] = all[j], all[j--] = other;                                            \
                }                                                                                   \
            }                                                                                       \
            if (k - 1 <= j) high = j;                                                               \
            else if (k - 1 >= i) low = i;                                                           \
            else return;                                                                            \
        }                                                                                           \
    }

/* A query of codes is made of whole numbers, `coarse * a + fine * b` with a and b of 8 bits, so that a walk compares by
 * a alone and what it keeps is scored by both, to 1 in 57,600 of the query's greatest component. */
typedef struct {
    int8_t *coarse, *fine; /* m each; of nibbles the even dimensions first, then the odd ones */
    float coarse_step, fine_step, sum;
} Query;

int bitfold_quantize(Query *made, const float *query, int64_t m, int nibbles);

/* Of a product with levels c of p planes, that with what they stand for: (2 c - K) / 2^(p - 1), K = 2^p - 1. */
static inline float value_product(const Query *made, int64_t planes, int32_t coarse, int32_t fine) {
    float levels = made->coarse_step * (float)coarse + made->fine_step * (float)fine;
    int32_t unit = 1 << planes;
    return (2 * levels - (float)(unit - 1) * made->sum) * (2.0f / (float)unit);
}

#ifdef __AVX2__
static inline int32_t sum_of(__m256i sums) {
    __m128i half = _mm_add_epi32(_mm256_castsi256_si128(sums), _mm256_extracti128_si256(sums, 1));
    half = _mm_add_epi32(half, _mm_shuffle_epi32(half, 0x4e));
    return _mm_cvtsi128_si32(_mm_add_epi32(half, _mm_shuffle_epi32(half, 0xb1)));
}
#endif

/* The product of whole numbers of 8 bits with a row of nibbles, the lower one of a byte first. */
static inline int32_t nibble_product(const uint8_t *row, const int8_t *query, int64_t bytes) {
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

#endif
