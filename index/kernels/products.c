/* Products of one query with codes, row by row; and codes laid out for them. */
#include "kernels.h"

#define AHEAD 6 /* rows asked for before they are scored */

int bitfold_quantize(Query *made, const float *query, int64_t m, int nibbles) {
    float greatest = TINY;
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

/* The product of whole numbers of 8 bits with the levels that the planes of a row make, the first plane weighing most. */
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
    int status = bitfold_quantize(&made, query, planes ? 8 * bytes : 2 * bytes, !planes);
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

/* Lay (n, 4, bytes) planes out as (n, 4 * bytes) nibbles: of two levels in a byte the lower one first. */
API void bitfold_nibbles(const uint8_t *planes, int64_t n, int64_t bytes, uint8_t *nibbles) {
    uint32_t spread[256]; /* the bits of a byte, each in a nibble of its own */
    for (uint32_t byte = 0; byte < 256; byte++) {
        spread[byte] = 0;
        for (int bit = 0; bit < 8; bit++) spread[byte] |= (byte >> bit & 1) << 4 * bit;
    }
    for (int64_t i = 0; i < n; i++)
        for (int64_t j = 0; j < bytes; j++) {
            const uint8_t *first = planes + 4 * bytes * i + j;
            uint32_t levels = spread[first[0]] << 3 | spread[first[bytes]] << 2 | spread[first[2 * bytes]] << 1 |
                              spread[first[3 * bytes]];
#if __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
            levels = __builtin_bswap32(levels);
#endif
            memcpy(nibbles + 4 * (bytes * i + j), &levels, 4);
        }
}
