/* A graph of codes as the kernels see it: what walks through one (walk.c) and what links one (link.c) share. */
#ifndef BITFOLD_GRAPH_H
#define BITFOLD_GRAPH_H
#include "kernels.h"

typedef struct {
    const uint8_t *codes; /* rows of nibbles */
    const uint16_t *scales; /* see bitfold_scales */
    int64_t rows, bytes;
    int32_t *neighbours; /* node by node and level by level, `degree` each, -1 behind the last */
    const uint32_t *starts; /* where those of a node begin, in units of `degree`; one more than there are rows */
    int64_t degree;
} Graph;

/* What codes are compared with, in whole numbers of 8 bits: the even dimensions first, then the odd ones. */
typedef struct {
    const int8_t *numbers;
    int32_t sum;
} Target;

/* The nodes that a walk has met: an open hash table of node + 1. */
typedef struct {
    uint32_t *slots, mask, count;
} Seen;

/* What a walk remembers. `best` is a heap of the `kept` best nodes it met, the worst on top. */
typedef struct {
    Scored *best, *next;
    int64_t kept, room;
    int32_t *fresh;
    Seen seen;
} Walk;

int bitfold_begin_walk(Walk *walk, int64_t width, int64_t degree);
void bitfold_end_walk(Walk *walk);
int bitfold_walk_level(const Graph *graph, Target target, int64_t level, int64_t width, Walk *walk);
void bitfold_sort_best(Walk *walk);

static inline int32_t *around(const Graph *graph, int64_t node, int64_t level) {
    return graph->neighbours + ((int64_t)graph->starts[node] + level) * graph->degree;
}

static inline int64_t highest_level(const Graph *graph, int64_t node) {
    return (int64_t)graph->starts[node + 1] - graph->starts[node] - 1;
}

/* How near a code is in direction: a product divided by the code's length. */
static inline int32_t nearness(const Graph *graph, Target target, int64_t node) {
    int64_t product = 2 * (int64_t)nibble_product(graph->codes + node * graph->bytes, target.numbers, graph->bytes) -
                      15 * (int64_t)target.sum;
    return (int32_t)(product * graph->scales[node] >> 10);
}

static inline void fetch_node(const Graph *graph, int64_t node) {
    fetch(graph->codes + node * graph->bytes, graph->bytes);
    __builtin_prefetch(graph->scales + node);
}
#endif
