"""What kernels read and write: vectors of a step, tiles of synapses, traces, and what history says of a step."""

from __future__ import annotations

import triton
import triton.language as tl

from .rules import next_traces
from .vocabulary import Tile


@triton.jit
def tile_at(first_row, first_column, ROWS: tl.constexpr, COLUMNS: tl.constexpr, options: tl.constexpr):
    rows, columns = first_row + tl.arange(0, ROWS), first_column + tl.arange(0, COLUMNS)
    return Tile(rows, columns, (rows < options.posts)[:, None] & (columns < options.pres)[None, :])


@triton.jit
def length_of(b, inputs, steps):
    length = steps.to(tl.int64)
    if inputs.lengths is not None:
        length = tl.load(inputs.lengths + b)
    return length


@triton.jit
def at(sequence, t, b):
    # t and b have 64 bits: a tensor of activities may hold more than 2^31 values.
    return sequence.data + t * sequence.step + b * sequence.element


@triton.jit
def load_vector(data, index, SIZE: tl.constexpr, options: tl.constexpr):
    return tl.load(data + index, index < SIZE, 0.0).to(options.dtype)


@triton.jit
def load_first(data, b, index, SIZE: tl.constexpr, options: tl.constexpr):
    """Row b of a state (B, SIZE); zero where it is missing."""
    if data is None:
        row = tl.zeros(index.shape, options.dtype)
    else:
        row = load_vector(data + b * SIZE, index, SIZE, options)
    return row


@triton.jit
def matrix_offsets(tile, options: tl.constexpr):
    return tile.rows.to(tl.int64)[:, None] * options.pres + tile.columns[None, :]


@triton.jit
def load_matrix(data, tile, options: tl.constexpr):
    """A tile of a matrix (O, I)."""
    return tl.load(data + matrix_offsets(tile, options), tile.inside, 0.0).to(options.dtype)


@triton.jit
def load_traces(trace, eligibility, b, tile, options: tl.constexpr):
    """A tile of element b of traces (B, O, I); zero where they are missing."""
    here, there = tl.zeros(tile.inside.shape, options.dtype), tl.zeros([1, 1], options.dtype)
    if trace is not None:
        here = load_matrix(trace + b * options.matrix, tile, options)
    if options.retroactive:
        there = tl.zeros(tile.inside.shape, options.dtype)
        if eligibility is not None:
            there = load_matrix(eligibility + b * options.matrix, tile, options)
    return here, there


@triton.jit
def store_traces(to_trace, to_eligibility, b, tile, trace, eligibility, options: tl.constexpr):
    offsets = matrix_offsets(tile, options)
    if to_trace is not None:
        tl.store(to_trace + b * options.matrix + offsets, trace, tile.inside)
    if options.retroactive:
        if to_eligibility is not None:
            tl.store(to_eligibility + b * options.matrix + offsets, eligibility, tile.inside)


@triton.jit
def kept(data, index, b, batch, options: tl.constexpr):
    """Where traces number ``index`` of element b lie in (..., traces, B, O, I), and how far behind its eligibility."""
    apart = batch.to(tl.int64) * options.matrix
    return data + index * options.traces * apart + b * options.matrix, apart


@triton.jit
def load_kept(data, index, b, batch, tile, options: tl.constexpr):
    trace, apart = kept(data, index, b, batch, options)
    return load_traces(trace, trace + apart, 0, tile, options)


@triton.jit
def store_kept(data, index, b, batch, tile, trace, eligibility, options: tl.constexpr):
    to, apart = kept(data, index, b, batch, options)
    store_traces(to, to + apart, 0, tile, trace, eligibility, options)


@triton.jit
def coefficient(data, DIMS: tl.constexpr, tile, options: tl.constexpr):
    """A parameter (), (O,) or (O, I), in a shape that broadcasts against the tile."""
    if DIMS == 0:
        value = tl.load(data).to(options.dtype)
    elif DIMS == 1:
        value = load_vector(data, tile.rows, options.posts, options)[:, None]
    else:
        value = load_matrix(data, tile, options)
    return value


@triton.jit
def rate_in_force(modulator, tile, parameters, options: tl.constexpr):
    """rate + rate_scale * M, where a missing rate is 0 and a missing scale 1."""
    if options.modulated:
        rate = modulator
        if parameters.rate_scale is not None:
            rate = coefficient(parameters.rate_scale, options.rate_scale, tile, options) * rate
        if parameters.rate is not None:
            rate = coefficient(parameters.rate, options.rate, tile, options) + rate
    else:
        rate = coefficient(parameters.rate, options.rate, tile, options)
    return rate


@triton.jit
def fading_of(tile, parameters, options: tl.constexpr):
    """The eligibility's rate, and which neurons have eligibility traces; None is all."""
    fading, eligible = None, None
    if options.retroactive:
        fading = coefficient(parameters.eligibility_rate, options.fading, tile, options)
        if parameters.modulated is not None:
            eligible = (tl.load(parameters.modulated + tile.rows, tile.rows < options.posts, 0) != 0)[:, None]
    return fading, eligible


@triton.jit
def activity_before(t, b, index, first_hidden, activities, options: tl.constexpr):
    """The activities before step t."""
    if t > 0:
        before = load_vector(at(activities.output, t - 1, b), index, options.posts, options)
    else:
        before = load_first(first_hidden, b, index, options.posts, options)
    return before


@triton.jit
def pre_of(t, b, columns, inputs, first, activities, options: tl.constexpr):
    if options.recurrent:
        pre = activity_before(t, b, columns, first.hidden, activities, options)
    else:
        pre = load_vector(at(inputs.features, t, b), columns, options.pres, options)
    return pre


@triton.jit
def post_of(t, b, rows, activities, options: tl.constexpr):
    if options.kind == "lstm" and options.post != "hidden":
        history = at(activities.history, t, b) + options.post_in_history
        post = load_vector(history, rows, options.posts, options)
    else:
        post = load_vector(at(activities.output, t, b), rows, options.posts, options)
    return post


@triton.jit
def modulator_of(t, b, activities, options: tl.constexpr):
    """M of step t; 0 without a modulator."""
    modulator = tl.zeros([1, 1], options.dtype)
    if options.modulated:
        modulator += tl.load(at(activities.modulators, t, b)).to(options.dtype)
    return modulator


@triton.jit
def advance(trace, eligibility, t, b, tile, inputs, first, parameters, activities, options: tl.constexpr):
    """The traces after step t, from those before it and from what is known of the step."""
    pre = pre_of(t, b, tile.columns, inputs, first, activities, options)[None, :]
    post = post_of(t, b, tile.rows, activities, options)[:, None]
    rate = rate_in_force(modulator_of(t, b, activities, options), tile, parameters, options)
    fading, eligible = fading_of(tile, parameters, options)
    return next_traces(trace, eligibility, pre, post, rate, fading, eligible, options)
