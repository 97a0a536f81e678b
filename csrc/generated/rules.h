// Written by `python -m plastikern.rules` from the definitions in plastikern/rules; do not edit.
#pragma once

#include "hebb_clip.h"
#include "hebb_decay.h"
#include "hebb_none.h"
#include "hebb_soft_clip.h"
#include "oja_clip.h"
#include "oja_none.h"
#include "oja_soft_clip.h"
#include "reads.h"

// What goes together: rule and constraint, by their places in plastikern/rules/papers.py; the
// change, the change where a step loses nothing, the read, and the one that serves it with bounds
// that may be infinite: what changes traces alike shares a kernel.
#define PLASTIKERN_RULES(X) \
    X(0, 0, hebb_decay, hebb_decay, read_trace, read_trace) \
    X(0, 1, hebb_clip, hebb_none, read_trace, read_trace) \
    X(0, 2, hebb_soft_clip, hebb_soft_clip, read_trace, read_trace) \
    X(0, 3, hebb_none, hebb_none, read_clipped, read_clipped) \
    X(0, 4, hebb_none, hebb_none, read_trace, read_clipped) \
    X(1, 1, oja_clip, oja_none, read_trace, read_trace) \
    X(1, 2, oja_soft_clip, oja_soft_clip, read_trace, read_trace) \
    X(1, 3, oja_none, oja_none, read_clipped, read_clipped) \
    X(1, 4, oja_none, oja_none, read_trace, read_clipped)
