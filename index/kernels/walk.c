/* The walk through a graph of codes. */
#include "kernels.h"

/* A heap: `sign` 1 has the best on top, -1 the worst. */
static void rise(Scored *heap, int64_t at, int sign) {
    Scored met = heap[at];
    while (at && sign * heap[(at - 1) / 2].score < sign * met.score) {
        heap[at] = heap[(at - 1) / 2];
        at = (at - 1) / 2;
    }
    heap[at] = met;
}

static void sink(Scored *heap, int64_t size, int sign) {
    Scored met = heap[0];
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
    if (bitfold_quantize(&made, query, 2 * bytes, 1)) return NO_MEMORY;
    int64_t room = 4 * width + 64, waiting = 0, kept = 0, status = NO_MEMORY;
    Scored *best = malloc(sizeof(Scored) * (width + 1)), *next = malloc(sizeof(Scored) * room);
    int32_t *fresh = malloc(sizeof(int32_t) * 2 * links);
    uint32_t slots = 1024;
    while (slots < 32 * (uint64_t)width && slots < 1u << 30) slots *= 2;
    Seen seen = {calloc(slots, sizeof(uint32_t)), slots - 1, 0};
    if (!best || !next || !fresh || !seen.slots) goto end;

    Scored here = {nibble_product(codes + entry * bytes, made.coarse, bytes), (uint32_t)entry};
    for (int64_t level = highest; level > 0; level--)
        for (int moved = 1; moved;) {
            const int32_t *around = neighbours + ((int64_t)starts[here.at] + level + 1) * links;
            moved = 0;
            for (int64_t k = 0; k < links && (uint64_t)around[k] < (uint64_t)rows; k++)
                fetch(codes + (int64_t)around[k] * bytes, bytes);
            for (int64_t k = 0; k < links && (uint64_t)around[k] < (uint64_t)rows; k++) {
                int32_t score = nibble_product(codes + (int64_t)around[k] * bytes, made.coarse, bytes);
                if (score > here.score) here = (Scored){score, (uint32_t)around[k]}, moved = 1;
            }
        }

    was_seen(&seen, here.at);
    best[kept++] = next[waiting++] = here;
    while (waiting && (kept < width || next[0].score >= best[0].score)) {
        const int32_t *around = neighbours + (int64_t)starts[next[0].at] * links;
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
        if (waiting) fetch(neighbours + (int64_t)starts[next[0].at] * links, 2 * links * (int64_t)sizeof(int32_t));
        for (int64_t k = 0; k < found; k++) {
            Scored met = {nibble_product(codes + (int64_t)fresh[k] * bytes, made.coarse, bytes), (uint32_t)fresh[k]};
            if (kept == width && met.score <= best[0].score) continue;
            if (waiting == room) {
                Scored *wider = realloc(next, sizeof(Scored) * 2 * room);
                if (!wider) goto end;
                next = wider, room *= 2;
            }
            __builtin_prefetch(starts + met.at);
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
        Scored worst = best[0];
        best[0] = best[--kept];
        if (kept) sink(best, kept, -1);
        const uint8_t *row = codes + (int64_t)worst.at * bytes;
        positions[kept] = worst.at;
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
