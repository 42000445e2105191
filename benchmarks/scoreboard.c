/* The time contract for one machine with one core and a FIFO channel, as C: what the engine's speed is
   held against. The machine is given when this is compiled: WINDOW, FETCH, ISSUE, CLASSES (units, one a
   class), ARRIVAL, COPIES (a bit for each class of copy units), READS and WRITES of an issue.

   An issue is a number of a shape, and its hazards are numbers too; 0 stands for none. The result is
   when the last is done; accounts and times of each issue are written beside it. */

#include <stdint.h>
#include <string.h>

typedef int64_t i64;
typedef int32_t i32;
typedef uint64_t u64;

#define NEVER INT64_MAX
#define RING 64
#define MAX(a, b) ((a) > (b) ? (a) : (b))
#define MIN(a, b) ((a) < (b) ? (a) : (b))

typedef struct { i32 unit, occupancy, drain, transfer, reads[READS], writes[WRITES], store; } shape_t;
typedef struct { i64 start; i32 free, done, fetched, ready; i64 holder; } event_t; /* from start on */
typedef struct { i64 busy, issue, queue, dram, data[CLASSES]; } account_t;
typedef struct { u64 writer, readers, stores; } hazard_t;
typedef struct { i64 free, landed, full; } unit_t;
typedef struct { const shape_t *shape; i64 waits, fetched, ready, holder, done, filled; } slot_t;

static inline u64 rotated(u64 mask, i64 start) {
    int by = start & (RING - 1);
    return by ? mask >> by | mask << (RING - by) : mask;
}

static inline void charge(account_t *account, const slot_t *slot, i64 since, i64 full, i64 t) {
    if (since >= t) return;
    i64 fetched = MIN(MAX(slot->fetched, since), t), ready = MAX(slot->ready, fetched);
    i64 queue = fetched > since ? slot->filled - full : 0;
    account->queue += queue;
    account->issue += fetched - since - queue + t - ready;
    account->data[slot->holder & 255] += ready - fetched;
}

i64 simulate(const shape_t *restrict shapes, const i32 *restrict stream, i64 size,
             hazard_t *restrict hazards, event_t *restrict events, account_t *restrict accounts) {
    slot_t slots[RING];
    u64 then[RING] = {0}, after[RING] = {0}, ready[CLASSES] = {0}, members[CLASSES] = {0};
    unit_t units[CLASSES + 1] = {{0}};
    u64 alive = 0, running = 0;
    i64 head = 0, next = 0, t = 0, channel = 0, end = 0, filled = 0, full_since = -1, freeing = NEVER;

    for (;;) {
        i64 soonest = NEVER;
        for (u64 left = rotated(running, head); left; left &= left - 1) {
            i64 at = head + __builtin_ctzll(left);
            int s = at & (RING - 1);
            if (slots[s].done != t) {
                soonest = MIN(soonest, slots[s].done);
                continue;
            }
            const shape_t *shape = slots[s].shape;
            u64 gone = ~(1ull << s);
            alive &= gone;
            running &= gone;
            members[shape->unit] &= gone;
            for (int k = 0; k < READS; k++) hazards[shape->reads[k]].readers &= gone;
            for (int k = 0; k < WRITES; k++) hazards[shape->writes[k]].writer &= gone;
            hazards[shape->store].stores &= gone;
            u64 waiting = then[s];
            then[s] = 0;
            for (; waiting; waiting &= waiting - 1) {
                int j = __builtin_ctzll(waiting);
                slots[j].ready = t;
                slots[j].holder = (at + 1) << 8 | shape->unit;
                if (!--slots[j].waits) ready[slots[j].shape->unit] |= 1ull << j;
            }
        }

        if (freeing <= t) {
            freeing = NEVER;
            for (int u = 0; u <= CLASSES; u++) {
                if (units[u].full != NEVER) continue;
                if (units[u].free <= t)
                    units[u].full = filled + (full_since >= 0 ? units[u].free - full_since : 0);
                else
                    freeing = MIN(freeing, units[u].free);
            }
        }
        if (full_since >= 0) filled += t - full_since;
        head = alive ? head + __builtin_ctzll(rotated(alive, head)) : next;
        i64 limit = MIN(MIN(next + FETCH, head + WINDOW), size);
        for (; next < limit; next++) {
            const shape_t *shape = shapes + stream[next];
            int s = next & (RING - 1);
            u64 own = 1ull << s, follow = 0, replace = 0;
            for (int k = 0; k < READS; k++) {
                const hazard_t *h = hazards + shape->reads[k];
                follow |= h->writer | h->stores;
            }
            for (int k = 0; k < WRITES; k++) {
                const hazard_t *h = hazards + shape->writes[k];
                replace |= h->writer | h->readers | h->stores;
            }
            replace |= hazards[shape->store].writer | hazards[shape->store].readers;
            for (int k = 0; k < READS; k++) hazards[shape->reads[k]].readers |= own;
            for (int k = 0; k < WRITES; k++) hazards[shape->writes[k]] = (hazard_t){own, 0, 0};
            hazards[shape->store].stores |= own;
            hazards[0] = (hazard_t){0, 0, 0};
            u64 same = replace & members[shape->unit];
            follow |= replace & ~same;
            u64 behind = same & ~running & ~follow;
            members[shape->unit] |= own;
            alive |= own;
            i64 waits = __builtin_popcountll(follow) + __builtin_popcountll(behind);
            slots[s] = (slot_t){shape, waits, t, waits ? -1 : t, 0, NEVER, filled};
            if (!waits) ready[shape->unit] |= own;
            for (; follow; follow &= follow - 1) then[__builtin_ctzll(follow)] |= own;
            for (; behind; behind &= behind - 1) after[__builtin_ctzll(behind)] |= own;
        }
        full_since = next == head + WINDOW ? t : -1;
        if (next < size && next < head + WINDOW) soonest = MIN(soonest, t + 1);

        int width = ISSUE;
        for (int u = 0; u < CLASSES; u++) {
            if (!ready[u]) continue;
            if (units[u].free <= t && width) {
                width--;
                i64 at = head + __builtin_ctzll(rotated(ready[u], head));
                int s = at & (RING - 1);
                slot_t *slot = slots + s;
                const shape_t *shape = slot->shape;
                ready[u] ^= 1ull << s;
                running |= 1ull << s;
                i64 work = shape->occupancy, until = t + work, done = until + shape->drain;
                if (shape->transfer) {
                    channel = MAX(channel, t) + shape->transfer;
                    until = MAX(until, channel);
                    done = until + MAX(shape->drain, 0) + ARRIVAL;
                    work = MAX(work, shape->transfer);
                }
                done = MAX(done, units[u].landed);
                charge(accounts + u, slot, units[u].free, units[u].full, t);
                accounts[u].busy += work;
                accounts[u].dram += until - t - work;
                unit_t *core = units + CLASSES;
                if (!(COPIES >> u & 1)) {
                    charge(accounts + CLASSES, slot, core->free, core->full, t);
                    if (until > core->free) {
                        accounts[CLASSES].busy += until - MAX(core->free, t);
                        core->free = until;
                        core->full = NEVER;
                    }
                }
                units[u] = (unit_t){until, done, NEVER};
                freeing = MIN(freeing, until);
                slot->done = done;
                soonest = MIN(soonest, done);
                end = MAX(end, MAX(until, done));
                if (done - slot->fetched > INT32_MAX) return -1;
                events[at] = (event_t){t, until - t, done - t, t - slot->fetched, t - slot->ready,
                                       slot->holder >> 8};
                u64 waiting = after[s];
                after[s] = 0;
                for (; waiting; waiting &= waiting - 1) {
                    int j = __builtin_ctzll(waiting);
                    i64 mine = (at + 1) << 8 | u;
                    if (slots[j].ready != t || slots[j].holder < mine) slots[j].holder = mine;
                    slots[j].ready = t;
                    if (!--slots[j].waits) ready[u] |= 1ull << j;
                }
            }
            if (ready[u]) soonest = MIN(soonest, MAX(units[u].free, t + 1));
        }
        if (soonest == NEVER) return end;
        t = soonest;
    }
}
