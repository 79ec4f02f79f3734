// What the two halves of the check share: check.c and hostile.c.
#pragma once

#include "kernels.h"

double uniform(void);  // of 0 <= x < 1, the same series in every run

// What weights can be: bits, whether of the table, and whether there is an offset, and factors.
typedef struct {
    int bits, table, offset, factors;
} Layout;
enum { LAYOUTS = 12 };
extern const Layout layouts[LAYOUTS];

// The whole of a call on one thread; 0 if there is no memory.
int compute_product(const Kernels *, Product *);
int compute_attention(const Kernels *, Attention *);

typedef struct {
    int refused, computed;
    int as_expected;  // what must be refused was, and memory that there is not was missed
} Tries;

Tries try_hostile_calls(const Kernels *);
