/* The last steps of a search: estimates of what was found, the choice of what is read, scores of vectors, the best. */
#include "kernels.h"
#include <time.h>

#define AHEAD 3    /* vectors asked for before they are scored: some 1,500 bytes each */
#define LANES 8    /* sums that a score is made of, side by side */
#define FIELDS 6   /* numbers that describe a file */
#define HALF 2     /* bytes of a float16 */

typedef struct {
    float score;
    int64_t at;
} Ranked;

DEFINE_KEEP_BEST(Ranked, keep_best, better_first)

static float from_half(uint16_t half) {
    uint32_t rest = (uint32_t)(half & 0x7fff) << 13;
    float value;
    if (rest >= 0x7c00u << 13) rest |= 0x7f800000u; /* infinite, or none */
    memcpy(&value, &rest, 4);
    if (rest < 0x7f800000u) value *= 0x1p112f; /* the exponents' bases are so far apart */
    return half & 0x8000 ? -value : value;
}

static double now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + 1e-9 * (double)time.tv_nsec;
}

static int ascending(const void *a, const void *b) {
    int64_t one = *(const int64_t *)a, other = *(const int64_t *)b;
    return one < other ? -1 : one > other;
}

static Ranked *ranked_of(const int64_t *rows, const float *scores, int64_t n) {
    Ranked *ranked = malloc(sizeof(Ranked) * (n + 1));
    if (ranked)
        for (int64_t i = 0; i < n; i++) ranked[i] = (Ranked){scores[i], rows[i]};
    return ranked;
}

/* Rows of some positions, and estimates `factor * (sum + bonus) * scale + shift + beta` of their scores.
 *
 * factors: a number of `factor_bytes` for each position; offsets: its row minus the first one, or NULL where that is the
 * position; beta: or NULL. */
API void bitfold_estimates(const int64_t *positions, const float *sums, int64_t n, const void *factors,
                           int64_t factor_bytes, const float *beta, const uint32_t *offsets, int64_t first_row,
                           float bonus, float scale, float shift, int64_t *rows, float *estimates) {
    for (int64_t i = 0; i < n; i++) {
        int64_t at = positions[i];
        float factor = factor_bytes == HALF ? from_half(((const uint16_t *)factors)[at]) : ((const float *)factors)[at];
        estimates[i] = factor * ((sums[i] + bonus) * scale) + shift + (beta ? beta[at] : 0);
        rows[i] = first_row + (offsets ? (int64_t)offsets[at] : at);
    }
}

/* Find the rows of the k highest scores, k at most n, of equal ones those of the lower rows; ascending. */
API int bitfold_choose(const int64_t *rows, const float *scores, int64_t n, int64_t k, int64_t *chosen) {
    if (k < n) {
        Ranked *ranked = ranked_of(rows, scores, n);
        if (!ranked) return NO_MEMORY;
        keep_best(ranked, n, k);
        for (int64_t i = 0; i < k; i++) chosen[i] = ranked[i].at;
        free(ranked);
    } else {
        memcpy(chosen, rows, sizeof(int64_t) * n);
    }
    qsort(chosen, k, sizeof(int64_t), ascending);
    return 0;
}

/* Find the k best, k at most n, best first; of equal scores the lower row comes first. */
API int bitfold_best(const int64_t *rows, const float *scores, int64_t n, int64_t k, int64_t *best_rows, float *best) {
    Ranked *ranked = ranked_of(rows, scores, n);
    if (!ranked) return NO_MEMORY;
    if (k < n) keep_best(ranked, n, k);
    qsort(ranked, k, sizeof(Ranked), better_first);
    for (int64_t i = 0; i < k; i++) best_rows[i] = ranked[i].at, best[i] = ranked[i].score;
    free(ranked);
    return 0;
}

#if defined(__AVX2__) && defined(__F16C__)
static __m256 eight(const uint8_t *vector, int64_t at, int half) {
    if (half) return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(vector + HALF * at)));
    return _mm256_loadu_ps((const float *)(vector + sizeof(float) * at));
}
#endif

/* The product of a vector with a query, or the square of their distance. */
static float compare(const uint8_t *vector, const float *query, int64_t d, int half, int distance) {
    float sums[LANES] = {0}, total = 0;
    int64_t at = 0;
#if defined(__AVX2__) && defined(__F16C__)
    __m256 first = _mm256_setzero_ps(), second = first;
    for (; at + 2 * LANES <= d; at += 2 * LANES) {
        __m256 a = eight(vector, at, half), b = eight(vector, at + LANES, half);
        __m256 p = _mm256_loadu_ps(query + at), q = _mm256_loadu_ps(query + at + LANES);
        if (distance) a = p = _mm256_sub_ps(a, p), b = q = _mm256_sub_ps(b, q);
        first = _mm256_fmadd_ps(a, p, first), second = _mm256_fmadd_ps(b, q, second);
    }
    _mm256_storeu_ps(sums, _mm256_add_ps(first, second));
#endif
    for (; at < d; at++) {
        float value;
        if (half) value = from_half(((const uint16_t *)vector)[at]);
        else memcpy(&value, vector + sizeof(float) * at, sizeof(float));
        float other = query[at];
        if (distance) value = other = value - other;
        sums[at % LANES] += value * other;
    }
    for (int i = 0; i < LANES; i++) total += sums[i];
    return total;
}

/* Score the vectors of ascending rows: their products with a query, or with `distance` the negative distances.
 *
 * files: (n, 6) of ascending rows, the address of the first vector, the first row, the row behind the last, the bytes of a
 * value (4 or 2), the address of the file's ascending rows, or 0 where none is missing, and how many these are. seconds: that
 * reading them took. */
API int bitfold_scores(const int64_t *files, int64_t n_files, const int64_t *rows, int64_t n, const float *query, int64_t d,
                       int distance, float *scores, double *seconds) {
    const uint8_t **vectors = malloc(sizeof(uint8_t *) * (n + 1));
    uint8_t *halves = malloc(n + 1);
    int status = vectors && halves ? 0 : NO_MEMORY;
    int64_t file = 0;
    for (int64_t i = 0; i < n && !status; i++) {
        while (file < n_files && rows[i] >= files[FIELDS * file + 2]) file++;
        const int64_t *about = files + FIELDS * file;
        if (file == n_files || rows[i] < about[1]) {
            status = OUT_OF_RANGE;
            break;
        }
        int64_t at = rows[i] - about[1];
        if (about[4]) {
            const int64_t *held = (const int64_t *)(intptr_t)about[4];
            int64_t low = 0, high = about[5];
            while (low < high) {
                int64_t middle = low + (high - low) / 2;
                if (held[middle] < rows[i]) low = middle + 1;
                else high = middle;
            }
            if (low == about[5] || held[low] != rows[i]) {
                status = OUT_OF_RANGE;
                break;
            }
            at = low;
        }
        vectors[i] = (const uint8_t *)(intptr_t)about[0] + at * d * about[3];
        halves[i] = about[3] == HALF;
    }
    double began = now();
    for (int64_t i = 0; i < n && !status; i++) {
        for (int64_t next = i ? i + AHEAD : 0; next <= i + AHEAD && next < n; next++)
            fetch(vectors[next], d * (halves[next] ? HALF : (int64_t)sizeof(float)));
        float found = compare(vectors[i], query, d, halves[i], distance);
        scores[i] = distance ? -sqrtf(found) : found;
    }
    *seconds = now() - began;
    free(vectors), free(halves);
    return status;
}

/* All of this in one go, for candidates of one segment: estimate their scores, read the `read` best, at most n, and find
 * the k best of these, at most `read`. Arguments are those of the steps. */
API int bitfold_finish(const int64_t *positions, const float *sums, int64_t n, const void *factors, int64_t factor_bytes,
                       const float *beta, const uint32_t *offsets, int64_t first_row, float bonus, float scale,
                       float shift, const int64_t *files, int64_t n_files, int64_t read, const float *query, int64_t d,
                       int distance, int64_t k, int64_t *best_rows, float *best, double *seconds) {
    int64_t *rows = malloc(sizeof(int64_t) * (n + read + 1));
    float *scores = malloc(sizeof(float) * (n + 1));
    int status = rows && scores ? 0 : NO_MEMORY;
    if (!status) {
        bitfold_estimates(positions, sums, n, factors, factor_bytes, beta, offsets, first_row, bonus, scale, shift, rows, scores);
        status = bitfold_choose(rows, scores, n, read, rows + n);
    }
    if (!status) status = bitfold_scores(files, n_files, rows + n, read, query, d, distance, scores, seconds);
    if (!status) status = bitfold_best(rows + n, scores, read, k, best_rows, best);
    free(rows), free(scores);
    return status;
}
