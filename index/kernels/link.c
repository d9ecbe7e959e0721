/* Links codes into a graph. */
#include "graph.h"

/* Of each code, what its products are multiplied with to compare directions: one by its length, in units that give the
 * shortest one there can be, whose values are all 1 or -1, 65,535. */
API void bitfold_scales(const uint8_t *codes, int64_t rows, int64_t bytes, uint16_t *scales) {
    for (int64_t row = 0; row < rows; row++, codes += bytes) {
        int64_t squares = 0;
        for (int64_t j = 0; j < bytes; j++) {
            int32_t even = 2 * (codes[j] & 15) - 15, odd = 2 * (codes[j] >> 4) - 15;
            squares += even * even + odd * odd;
        }
        scales[row] = (uint16_t)(65535 * sqrt(2 * (double)bytes / (double)squares));
    }
}

/* What a thread works with. */
typedef struct {
    const Graph *graph;
    uint8_t *locks; /* of the nodes whose links are written */
    Walk walk;
    int8_t *numbers, *others; /* room for a node's values, and for those of one that is compared with it */
    Scored *near, *chosen, *rechosen;
} Linking;

static void lock(Linking *work, int64_t node) {
    while (__atomic_test_and_set(work->locks + node, __ATOMIC_ACQUIRE)) {}
}

static void unlock(Linking *work, int64_t node) { __atomic_clear(work->locks + node, __ATOMIC_RELEASE); }

/* The values of a code as what others are compared with, in `numbers`. */
static Target target_of(const Graph *graph, int64_t node, int8_t *numbers) {
    const uint8_t *row = graph->codes + node * graph->bytes;
    Target target = {numbers, 0};
    for (int64_t j = 0; j < graph->bytes; j++) {
        int8_t even = (int8_t)(2 * (row[j] & 15) - 15), odd = (int8_t)(2 * (row[j] >> 4) - 15);
        numbers[j] = even, numbers[graph->bytes + j] = odd;
        target.sum += even + odd;
    }
    return target;
}

/* Choose up to `most` of n nodes, the nearest to a node first: those that are nearer to it than to all that were chosen
 * before, so that links lead into different directions. */
static int64_t choose(Linking *work, int64_t node, const Scored *near, int64_t n, int64_t most, Scored *chosen) {
    const Graph *graph = work->graph;
    int64_t count = 0;
    for (int64_t k = 0; k < n && count < most; k++) {
        if ((int64_t)near[k].at == node) continue; /* another thread has linked to it already */
        Target one = target_of(graph, near[k].at, work->others);
        int64_t between = (int64_t)near[k].score * graph->scales[node], scale = graph->scales[near[k].at], other = 0;
        while (other < count && nearness(graph, one, chosen[other].at) * scale <= between) other++;
        if (other == count) chosen[count++] = near[k];
    }
    return count;
}

static void write_links(int32_t *links, const Scored *chosen, int64_t count, int64_t degree) {
    for (int64_t k = 0; k < degree; k++)
        __atomic_store_n(links + k, k < count ? (int32_t)chosen[k].at : -1, __ATOMIC_RELAXED); /* others may be walking */
}

/* Link a node back to one that links to it: in a free place, else its links are chosen anew. */
static void link_back(Linking *work, int64_t node, int64_t level, uint32_t from) {
    const Graph *graph = work->graph;
    int32_t *links = around(graph, node, level);
    int64_t count = 0;
    lock(work, node);
    while (count < graph->degree && links[count] >= 0) count++;
    if (count < graph->degree) {
        __atomic_store_n(links + count, (int32_t)from, __ATOMIC_RELAXED);
    } else {
        Target target = target_of(graph, node, work->others);
        for (int64_t k = 0; k < count; k++) fetch_node(graph, links[k]);
        for (int64_t k = 0; k <= count; k++) {
            uint32_t other = k < count ? (uint32_t)links[k] : from;
            Scored met = {nearness(graph, target, other), other};
            int64_t at = k;
            for (; at && work->near[at - 1].score < met.score; at--) work->near[at] = work->near[at - 1];
            work->near[at] = met;
        }
        count = choose(work, node, work->near, count + 1, graph->degree, work->rechosen);
        write_links(links, work->rechosen, count, graph->degree);
    }
    unlock(work, node);
}

/* Link one node: with half as many as there is room for, so that others may link to it. */
static int link_node(Linking *work, int64_t node, int64_t width) {
    const Graph *graph = work->graph;
    Walk *walk = &work->walk;
    Target target = target_of(graph, node, work->numbers);
    int64_t own = highest_level(graph, node);
    walk->best[0] = (Scored){nearness(graph, target, 0), 0}, walk->kept = 1;
    for (int64_t level = highest_level(graph, 0); level >= 0; level--) {
        if (bitfold_walk_level(graph, target, level, level > own ? 1 : width, walk)) return NO_MEMORY;
        if (level > own) continue;
        bitfold_sort_best(walk);
        int64_t count = choose(work, node, walk->best, walk->kept, graph->degree / 2, work->chosen);
        lock(work, node);
        write_links(around(graph, node, level), work->chosen, count, graph->degree);
        unlock(work, node);
        for (int64_t k = 0; k < count; k++) link_back(work, work->chosen[k].at, level, (uint32_t)node);
        walk->kept = 1; /* the nearest: from there the walk goes on */
    }
    return 0;
}

/* Link the nodes from `first` to before `last`, and those that were linked, as HNSW does (Malkov and Yashunin, arXiv
 * 1603.09320, algorithms 1 and 4).
 *
 * Node 0, which is on all levels, counts as linked. Threads may link different nodes of a graph at once; locks: a zero
 * for each node; width: how many nodes a walk keeps. */
API int bitfold_link(const uint8_t *codes, const uint16_t *scales, int64_t rows, int64_t bytes, int32_t *neighbours,
                     const uint32_t *starts, int64_t degree, uint8_t *locks, int64_t first, int64_t last,
                     int64_t width) {
    Graph graph = {codes, scales, rows, bytes, neighbours, starts, degree};
    int64_t room = sizeof(Scored) * (degree + 1);
    Linking work = {&graph, locks, {0}, malloc(2 * bytes), malloc(2 * bytes), malloc(room), malloc(room), malloc(room)};
    int status = bitfold_begin_walk(&work.walk, width, degree);
    if (!work.numbers || !work.others || !work.near || !work.chosen || !work.rechosen) status = NO_MEMORY;
    for (int64_t node = first > 0 ? first : 1; node < last && !status; node++) status = link_node(&work, node, width);
    free(work.numbers), free(work.others), free(work.near), free(work.chosen), free(work.rechosen);
    bitfold_end_walk(&work.walk);
    return status;
}
