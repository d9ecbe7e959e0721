/* The walk through a graph of codes. */
#include "graph.h"

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

int bitfold_begin_walk(Walk *walk, int64_t width, int64_t degree) {
    uint32_t slots = 1024;
    while (slots < 32 * (uint64_t)width && slots < 1u << 30) slots *= 2;
    walk->kept = 0, walk->room = 4 * width + 64;
    walk->best = malloc(sizeof(Scored) * (width + 1)), walk->next = malloc(sizeof(Scored) * walk->room);
    walk->fresh = malloc(sizeof(int32_t) * degree);
    walk->seen = (Seen){calloc(slots, sizeof(uint32_t)), slots - 1, 0};
    return walk->best && walk->next && walk->fresh && walk->seen.slots ? 0 : NO_MEMORY;
}

void bitfold_end_walk(Walk *walk) { free(walk->best), free(walk->next), free(walk->fresh), free(walk->seen.slots); }

/* Go on from the nodes that are kept, which become the `width` nearest ones that are met on a level. */
int bitfold_walk_level(const Graph *graph, Target target, int64_t level, int64_t width, Walk *walk) {
    Scored *best = walk->best, *next = walk->next;
    Seen *seen = &walk->seen;
    int64_t waiting = 0, kept = walk->kept, degree = graph->degree;
    if (seen->count) memset(seen->slots, 0, sizeof(uint32_t) * ((size_t)seen->mask + 1));
    seen->count = 0;
    for (; kept > width; sink(best, kept, -1)) best[0] = best[--kept];
    for (int64_t k = 0; k < kept; k++) {
        was_seen(seen, best[k].at);
        next[waiting] = best[k];
        rise(next, waiting++, 1);
    }
    while (waiting && (kept < width || next[0].score >= best[0].score)) {
        const int32_t *met_by = around(graph, next[0].at, level);
        next[0] = next[--waiting];
        if (waiting) sink(next, waiting, 1);
        if (2 * (seen->count + (uint64_t)degree) > seen->mask && grow_seen(seen)) return NO_MEMORY;
        int64_t found = 0;
        for (int64_t k = 0; k < degree; k++) {
            int32_t node = __atomic_load_n(met_by + k, __ATOMIC_RELAXED); /* others may be linking */
            if ((uint64_t)node >= (uint64_t)graph->rows) break;
            if (was_seen(seen, (uint32_t)node)) continue;
            walk->fresh[found++] = node;
            fetch_node(graph, node);
        }
        /* What comes next is most likely the best that waits, then one of the two below it: codes that this one links
         * to are asked for, and the links of those. */
        const int32_t *coming = waiting ? around(graph, next[0].at, level) : met_by;
        for (int64_t k = 0; waiting && k < degree; k++) {
            int32_t node = __atomic_load_n(coming + k, __ATOMIC_RELAXED);
            if ((uint64_t)node >= (uint64_t)graph->rows) break;
            fetch_node(graph, node);
        }
        for (int64_t k = 1; k < 3 && k < waiting; k++)
            fetch(around(graph, next[k].at, level), degree * (int64_t)sizeof(int32_t));
        for (int64_t k = 0; k < found; k++) {
            Scored met = {nearness(graph, target, walk->fresh[k]), (uint32_t)walk->fresh[k]};
            if (kept == width && met.score <= best[0].score) continue;
            if (waiting == walk->room) {
                Scored *wider = realloc(next, sizeof(Scored) * 2 * walk->room);
                if (!wider) return NO_MEMORY;
                walk->next = next = wider, walk->room *= 2;
            }
            __builtin_prefetch(graph->starts + met.at);
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
    walk->kept = kept;
    return 0;
}

/* Put what is kept in order, the best first. */
void bitfold_sort_best(Walk *walk) {
    for (int64_t left = walk->kept; left > 1;) {
        Scored worst = walk->best[0];
        walk->best[0] = walk->best[--left];
        sink(walk->best, left, -1);
        walk->best[left] = worst;
    }
}

/* Walk through an HNSW graph (Malkov and Yashunin, arXiv 1603.09320) from node 0, which is on all levels.
 *
 * Returns how many of the `width` nodes nearest in direction that it met are in `positions`, best first, with their
 * products with the query in `products`; or an error. */
API int64_t bitfold_walk(const uint8_t *codes, const uint16_t *scales, int64_t rows, int64_t bytes, int32_t *neighbours,
                         const uint32_t *starts, int64_t degree, const float *query, int64_t width, int64_t *positions,
                         float *products) {
    Graph graph = {codes, scales, rows, bytes, neighbours, starts, degree};
    Query made;
    if (bitfold_quantize(&made, query, 2 * bytes, 1)) return NO_MEMORY;
    Target target = {made.coarse, 0};
    for (int64_t j = 0; j < 2 * bytes; j++) target.sum += made.coarse[j];
    Walk walk;
    int64_t status = bitfold_begin_walk(&walk, width, degree);
    if (status) goto end;
    walk.best[walk.kept++] = (Scored){nearness(&graph, target, 0), 0};
    for (int64_t level = highest_level(&graph, 0); level >= 0 && !status; level--)
        status = bitfold_walk_level(&graph, target, level, level ? 1 : width, &walk);
    if (status) goto end;
    bitfold_sort_best(&walk);
    status = walk.kept;
    for (int64_t k = 0; k < walk.kept; k++) {
        const uint8_t *row = codes + (int64_t)walk.best[k].at * bytes;
        positions[k] = walk.best[k].at;
        products[k] = value_product(&made, 4, nibble_product(row, made.coarse, bytes), nibble_product(row, made.fine, bytes));
    }
end:
    free(made.coarse);
    bitfold_end_walk(&walk);
    return status;
}
