"""What kernels read and write: vectors of a step, tiles of synapses, traces, and what history says of a step."""

from __future__ import annotations

import triton
import triton.language as tl

from .vocabulary import Tile


@triton.jit
def tile_at(
    first_row, first_column, ROWS: tl.constexpr, COLUMNS: tl.constexpr, network: tl.constexpr
):
    rows, columns = first_row + tl.arange(0, ROWS), first_column + tl.arange(0, COLUMNS)
    return Tile(rows, columns, (rows < network.posts)[:, None] & (columns < network.pres)[None, :])


@triton.jit
def rows_and_element(ROWS: tl.constexpr, network: tl.constexpr):
    """The first row of a program that takes ``ROWS`` of one element, the number of the program in it, the element.

    Programs lie along the first axis of the grid, rows first: devices limit the other two to 65,535.
    """
    PROGRAMS: tl.constexpr = (network.posts + ROWS - 1) // ROWS
    program = tl.program_id(0) % PROGRAMS
    return program * ROWS, program, (tl.program_id(0) // PROGRAMS).to(tl.int64)


@triton.jit
def length_of(b, inputs, steps):
    length = steps.to(tl.int64)
    if inputs.lengths is not None:
        length = tl.load(inputs.lengths + b)
    return length


@triton.jit
def at(sequence, t, b):
    # t and b have 64 bits: a tensor of activities may hold more than 2^31 values.
    return sequence.data + t * distance(sequence.step) + b * distance(sequence.element)


@triton.jit
def distance(given):
    return 1 if given is None else given


@triton.jit
def load_vector(data, index, SIZE: tl.constexpr, network: tl.constexpr):
    return tl.load(data + index, index < SIZE, 0.0).to(network.dtype)


@triton.jit
def load_first(data, b, index, SIZE: tl.constexpr, network: tl.constexpr):
    """Row b of a state (B, SIZE); zero where it is missing."""
    if data is None:
        row = tl.zeros(index.shape, network.dtype)
    else:
        row = load_vector(data + b * SIZE, index, SIZE, network)
    return row


@triton.jit
def matrix_offsets(tile, network: tl.constexpr):
    return tile.rows[:, None] * network.pres + tile.columns[None, :]


@triton.jit
def load_matrix(data, tile, network: tl.constexpr):
    """A tile of a matrix (O, I)."""
    return tl.load(data + matrix_offsets(tile, network), tile.inside, 0.0).to(network.dtype)


@triton.jit
def load_traces(trace, eligibility, b, tile, network: tl.constexpr):
    """A tile of element b of traces (B, O, I); zero where they are missing."""
    here, there = tl.zeros(tile.inside.shape, network.dtype), tl.zeros([1, 1], network.dtype)
    if trace is not None:
        here = load_matrix(trace + b * network.matrix, tile, network)
    if network.retroactive:
        there = tl.zeros(tile.inside.shape, network.dtype)
        if eligibility is not None:
            there = load_matrix(eligibility + b * network.matrix, tile, network)
    return here, there


@triton.jit
def store_traces(to_trace, to_eligibility, b, tile, trace, eligibility, network: tl.constexpr):
    offsets = matrix_offsets(tile, network)
    if to_trace is not None:
        tl.store(to_trace + b * network.matrix + offsets, trace, tile.inside)
    if network.retroactive:
        if to_eligibility is not None:
            tl.store(to_eligibility + b * network.matrix + offsets, eligibility, tile.inside)


@triton.jit
def kept(data, index, b, batch, network: tl.constexpr):
    """Where traces number ``index`` of element b lie in (..., traces, B, O, I), and how far behind its eligibility."""
    apart = batch.to(tl.int64) * network.matrix
    return data + index * network.traces * apart + b * network.matrix, apart


@triton.jit
def load_kept(data, index, b, batch, tile, network: tl.constexpr):
    trace, apart = kept(data, index, b, batch, network)
    return load_traces(trace, trace + apart, 0, tile, network)


@triton.jit
def store_kept(data, index, b, batch, tile, trace, eligibility, network: tl.constexpr):
    to, apart = kept(data, index, b, batch, network)
    store_traces(to, to + apart, 0, tile, trace, eligibility, network)


@triton.jit
def coefficient(data, DIMS: tl.constexpr, BY_SYNAPSE: tl.constexpr, tile, network: tl.constexpr):
    """A parameter (), (O,) or (O, I): of the rows (R,), or, by synapse, as it broadcasts against the tile."""
    if DIMS == 2:
        value = load_matrix(data, tile, network)
    else:
        if DIMS == 1:
            value = load_vector(data, tile.rows, network.posts, network)
        else:
            value = tl.full(tile.rows.shape, tl.load(data).to(network.dtype), network.dtype)
        if BY_SYNAPSE:
            value = value[:, None]
    return value


@triton.jit
def activity_before(t, b, index, first_hidden, activities, network: tl.constexpr):
    """The activities before step t."""
    if t > 0:
        before = load_vector(at(activities.output, t - 1, b), index, network.posts, network)
    else:
        before = load_first(first_hidden, b, index, network.posts, network)
    return before


@triton.jit
def pre_of(t, b, columns, inputs, first, activities, network: tl.constexpr):
    if network.recurrent:
        pre = activity_before(t, b, columns, first.hidden, activities, network)
    else:
        pre = load_vector(at(inputs.features, t, b), columns, network.pres, network)
    return pre


@triton.jit
def post_of(t, b, rows, activities, network: tl.constexpr):
    if network.post_in_history >= 0:
        history = at(activities.history, t, b) + network.post_in_history
        post = load_vector(history, rows, network.posts, network)
    else:
        post = load_vector(at(activities.output, t, b), rows, network.posts, network)
    return post


@triton.jit
def modulator_of(t, b, activities, network: tl.constexpr):
    """M (1,) of step t; 0 without a modulator."""
    modulator = tl.zeros([1], network.dtype)
    if network.modulated:
        modulator += tl.load(at(activities.modulators, t, b)).to(network.dtype)
    return modulator
