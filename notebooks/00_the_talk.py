# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # The talk in ten minutes
#
# Wei Wen's talk *Efficient and Scalable Deep Learning* makes networks cheaper in four ways: fewer filters, fewer
# hidden units, fewer bits between workers, and larger batches that still generalise. Here are all four, small enough
# to read and run, on real handwritten digits.
#
# **Minutes**: 10 for the main line, 25 with the folded questions and the experiments at the end. It runs in well under
# a minute.
#
# **Goals**. Afterwards you can say, and show in code,
# 1. what a tape is, and how a gradient walks back along it;
# 2. why group Lasso removes *whole* filters, and why what is left is an ordinary small network;
# 3. what belongs to one hidden unit of an LSTM, and why it can only leave as a whole;
# 4. why a gradient made of -1, 0 and 1 still points the right way on average;
# 5. why noise on the weights makes a sharp valley disappear and leaves a wide one.
#
# **Prerequisites**: NumPy, the chain rule, and having trained a network once. It runs without Numba and without MPI.
#
# | chapter | what is changed | what gets cheaper |
# |---|---|---|
# | 1. structured sparsity | weights: whole groups become 0 | multiply-adds, memory |
# | 2. sparse LSTM units | the same, for recurrent networks | the same |
# | 3. ternary gradients | what workers tell each other | communication |
# | 4. SmoothOut | where the gradient is taken | time: large batches without the loss in accuracy |
#
# All four act at the same place: between `loss.backward()` and `optimizer.step()`, on plain arrays.

# %%
import matplotlib.pyplot as plt
import numpy as np
from lesson import BLACK, BLUE, GREEN, ORANGE, RED, as_float, digits, show

from minidl import Tensor, nn
from minidl.data import batches
from minidl.explain import explain
from minidl.functional import cross_entropy
from minidl.models import mlp
from minidl.optim import SGD, clip_grad_norm
from minidl.smoothout import smoothout
from minidl.sparsity import GroupLasso, compact, cost, groups, own_groups
from minidl.ternary.pack import message_bytes
from minidl.ternary.ternarise import Ternariser
from minidl.train import accuracy, fit, predict

# %% [markdown]
# ## 0. A tape, and one gradient walked back
#
# One neuron with a squared error:
#
# $$ z = w \cdot x + b, \qquad y = \tanh z, \qquad L = (y - 1)^2 $$
#
# While Python computes `L`, every call leaves a line on the *tape*. `explain` prints it forwards, and then backwards:
# each call receives the gradient of its result and hands on the gradients of its arguments.

# %%
w, b, x = Tensor([0.5, -1.0], requires_grad=True), Tensor(0.25, requires_grad=True), Tensor([3.0, 2.0])
z = (w * x).sum() + b
y = np.tanh(z)
L = (y - 1.0) ** 2
print(explain(L, w=w, b=b, x=x, z=z, y=y))

# %% [markdown]
# The same by hand, one factor per line of the chain rule:
#
# $$ \frac{dL}{dw} = \underbrace{2 (y - 1)}_{dL/dy} \; \underbrace{(1 - y^2)}_{dy/dz} \; \underbrace{x}_{dz/dw} $$

# %%
L.backward()
by_hand = 2 * (y.item() - 1) * (1 - y.item() ** 2) * x.data  # dL/dy dy/dz dz/dw
print("from the tape:", w.grad)
print("by hand:      ", by_hand)
assert np.allclose(w.grad, by_hand)

# %% [markdown]
# `w.grad` is a plain array. Whatever the four methods do to gradients and weights, they do to arrays like this one.
#
# <details><summary>Question: <code>w</code> gets one gradient here. And a weight that is used
# twice?</summary>
#
# Its gradients add up. If $L = f(w, w)$, then $dL/dw$ is the sum over both places. An LSTM uses each weight once per
# time step, so its gradient is a sum over time. `explain` prints such sums as "so far + ...".
# </details>

# %% [markdown]
# ## 1. Structured sparsity
#
# The talk's example: five weights in two groups, $(w_1, w_2, w_3)$ and $(w_4, w_5)$. Group Lasso adds the *norms* of
# the groups to the data loss:
#
# $$ E(w) = E_D(w) + \lambda R_g(w), \qquad R_g(w) = \sqrt{w_1^2 + w_2^2 + w_3^2} + \sqrt{w_4^2 + w_5^2} $$
#
# Its gradient is $\lambda\, w_g / \|w_g\|$: a vector of length $\lambda$, however small the group has become. That is
# the whole trick. The pull of a squared norm would fade as the weights shrink, and they would never arrive at 0.

# %%
weights = nn.Parameter(np.array([0.9, -0.6, 0.7, 0.35, -0.2]))
pair = own_groups({"w": weights}, {"w": (0, [0, 0, 0, 1, 1])})  # the first three in group 0, the last two in group 1
for name, value in GroupLasso(pair, lam=0.1).steps():
    value = value["w"] if isinstance(value, dict) else value
    print(f"{name:22} {np.round(value, 3)}")

# %% [markdown]
# Now let $E_D = \tfrac12 \|w - v\|^2$: the data ask for $w = v$. The best $w$ is known in closed form, the *proximal
# step*:
#
# $$ w_g = \max\left(0,\; 1 - \frac{\lambda}{\|v_g\|}\right) v_g $$
#
# **Predict, then run.** $v = (0.9, -0.6, 0.7 \mid 0.35, -0.2)$. At which $\lambda$ does the second group become 0? Do
# $w_4$ and $w_5$ vanish together? And if every weight is its own group (plain $L_1$): which weight goes first, and
# when? Write three numbers down before you run the next cell.

# %%
v = np.array([0.9, -0.6, 0.7, 0.35, -0.2])
lambdas = np.linspace(0, 1.5, 301)


def prox(v, lam, members):
    """max(0, 1 - lambda / ||v_g||) v_g for each group of members."""
    out = np.zeros_like(v)
    for g in members:
        out[g] = max(0.0, 1 - lam / np.linalg.norm(v[g])) * v[g]
    return out


figure, axes = plt.subplots(1, 2, figsize=(10, 3.6), sharey=True)
for ax, title, members in (
    (axes[0], "group Lasso: a group vanishes as a whole", [[0, 1, 2], [3, 4]]),
    (axes[1], "$L_1$: weights vanish one by one", [[0], [1], [2], [3], [4]]),
):
    path = np.array([prox(v, lam, members) for lam in lambdas])
    for k in range(5):
        dash = ("-", "--", ":", "-", "--")[k]
        ax.plot(lambdas, path[:, k], dash, color=BLUE if k < 3 else RED, label=f"$w_{k + 1}$")
    for g in members:
        ax.plot(np.linalg.norm(v[g]), 0, "o", color=BLACK, ms=5, zorder=3)
    ax.set(title=title, xlabel="$\\lambda$")
axes[0].set_ylabel("weight at the minimum")
axes[1].legend(ncols=1, loc="upper right")
show(
    figure,
    "Five weights against lambda. Left, group Lasso: w4 and w5 reach zero together at lambda 0.40, then w1, "
    "w2 and w3 together at 1.29. Right, L1: the five weights reach zero at five different lambdas, w5 first "
    "at 0.20.",
)

# %% [markdown]
# <details><summary>Answer</summary>
#
# A group vanishes at $\lambda = \|v_g\|$: the second at $\sqrt{0.35^2 + 0.2^2} = 0.40$, both weights at once. With
# $L_1$, each weight vanishes at its own $|v_k|$: $w_5$ first, at 0.20.
# </details>
#
# ### The same on a network
#
# A small convolutional network reads real digits. A group is one *filter*: all weights that make one feature map.
# Training is the ordinary loop, with one more line after the step.

# %%
data = digits()
train_x, test_x = as_float(data.train_images), as_float(data.test_images)
train_y, test_y = data.train_labels.astype(int), data.test_labels.astype(int)
print(f"{data.name}: {len(train_x)} digits to train, {len(test_x)} to test")


def network(rng):
    return nn.Sequential(
        nn.Conv2d(1, 12, 5, rng=rng), nn.MaxPool2d(2), nn.Conv2d(12, 24, 5, rng=rng), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(24 * 4 * 4, 64, rng=rng), nn.ReLU(), nn.Linear(64, 10, rng=rng),
    )  # fmt: skip


def train(model, rng, epochs, lr, penalty_from=None, make_penalty=None, limit=None):
    """Train; from epoch `penalty_from` on with group Lasso; the last quarter with a fifth of the rate."""
    optimizer, penalty, alive = SGD(model.parameters(), lr=lr, momentum=0.9), None, []
    for epoch in range(epochs):
        if epoch == penalty_from:
            penalty = make_penalty(model)
        optimizer.lr = lr if epoch < 0.75 * epochs else lr / 5
        fit(  # after each step: w_g = max(0, 1 - t / ||w_g||) w_g
            model, batches((train_x, train_y), 64, rng), optimizer,
            after_backward=(lambda step: clip_grad_norm(model.parameters(), limit)) if limit else None,
            after_step=(lambda step, penalty=penalty: penalty.prox_(optimizer)) if penalty else None,
        )  # fmt: skip
        alive.append(penalty.alive() if penalty else None)
    return model, alive


def error(model):
    return 100 * (1 - accuracy(model, test_x, test_y))


rng = np.random.default_rng(0)
dense, _ = train(network(rng), rng, epochs=8, lr=0.05)
rng = np.random.default_rng(0)
sparse, alive = train(
    network(rng), rng, epochs=8, lr=0.05, penalty_from=2,
    make_penalty=lambda model: GroupLasso(groups(model, train_x[:1], by="filter"), lam=0.02),
)  # fmt: skip
for epoch, counts in enumerate(alive):
    left = [f"layer {name}s: {k} of {m}" for name, (k, m) in counts.items()] if counts else ["no penalty yet"]
    print(f"epoch {epoch}:", ", ".join(left))
print(f"test error: {error(dense):.1f} % without group Lasso, {error(sparse):.1f} % with it")


# %%
def draw_filters(ax, filters):
    """All 5x5 filters of a first layer as tiles, each in its own scale; those that are exactly 0 are crossed out."""
    gone = ~np.any(filters, axis=(1, 2, 3))
    columns, rows = 4, -(-len(filters) // 4)
    canvas = np.full((rows * 6 + 1, columns * 6 + 1), np.nan)
    for k, w in enumerate(filters[:, 0]):
        i, j = divmod(k, columns)
        canvas[i * 6 + 1 : i * 6 + 6, j * 6 + 1 : j * 6 + 6] = 0 if gone[k] else w / np.abs(w).max()
        if gone[k]:
            corners = np.array([0.7, 5.3])
            ax.plot(j * 6 + corners, i * 6 + corners, color="0.45", lw=1.2)
            ax.plot(j * 6 + corners, i * 6 + corners[::-1], color="0.45", lw=1.2)
    image = ax.imshow(canvas, cmap="PuOr", vmin=-1, vmax=1)
    image.cmap.set_bad("0.8")
    ax.axis("off")
    return int(gone.sum())


first_dense, first_sparse = dense[0].weight.data, sparse[0].weight.data
figure, axes = plt.subplots(1, 3, figsize=(12, 3.6), width_ratios=(1, 1, 1.2))
draw_filters(axes[0], first_dense)
gone = draw_filters(axes[1], first_sparse)
axes[0].set_title("first layer, without group Lasso")
axes[1].set_title(f"with: {gone} of 12 filters are exactly 0")
for name, model, colour, marker in (("without", dense, BLACK, "s"), ("with", sparse, BLUE, "o")):
    norms = np.sort(np.sqrt(np.square(model[2].weight.data).sum((1, 2, 3))))[::-1]
    axes[2].plot(np.arange(1, 25)[norms > 0], norms[norms > 0], marker, color=colour, ms=5, label=f"{name} group Lasso")
    axes[2].plot(np.arange(1, 25)[norms == 0], norms[norms == 0], "x", color=colour)
axes[2].plot([], [], "x", color=BLUE, label="exactly 0")
axes[2].set(title="second layer: norms of its 24 filters", xlabel="filter, sorted", ylabel="$\\|w_g\\|$")
axes[2].legend()
show(
    figure,
    "Left: the twelve 5x5 filters of the first layer trained without group Lasso, all in use. Middle: with "
    f"group Lasso, {gone} of them are exactly zero and crossed out. Right: sorted norms of the second layer's "
    f"24 filters; without group Lasso all are large, with it the last {24 - alive[-1]['2 filter'][0]} "
    "are exactly zero.",
)

# %% [markdown]
# A filter that is 0 makes a feature map that is constant: its bias, at every pixel. `compact` takes the filter out,
# with the channel of the next layer that read it, and adds the constant to the next layer's bias. It returns an
# ordinary, smaller network, and a certificate: what was removed and why, what it cost before and after, and the
# largest difference of the outputs, measured in float64.

# %%
small, certificate = compact(sparse, train_x[:8])
print(certificate)
print()
print(small)
print(f"test error: {error(sparse):.1f} % with the zeros, {error(small):.1f} % of the small network")

# %% [markdown]
# <details><summary>Question: a third of all weights being 0, scattered anywhere, would save as many multiplications on
# paper. Why remove filters?</summary>
#
# Scattered zeros have to be looked up: where is the next weight that is not 0? That look-up costs more than the
# multiplication it saves, unless nearly all weights are 0. A network without some of its filters is again a dense
# network. Every fast dense library runs it, and none of them has to know why it is smaller.
# </details>
#
# <details><summary>Question: lambda was 0.02 here. Where does the number come from?</summary>
#
# It was chosen to make the picture clear. In earnest, several values are tried, and judged on images that are held
# back from training and are not the test images. A larger lambda removes more and at some point costs accuracy.
# </details>

# %% [markdown]
# ## 2. What is a hidden unit of an LSTM?
#
# An LSTM reads a sequence. At each step (the talk's names; $u$ is the candidate):
#
# $$ i, f, o = \sigma(\cdot), \quad u = \tanh(\cdot) \quad \text{of} \quad W_{ih} x_t + W_{hh} h_{t-1} + b, \qquad
#    c_t = f \odot c_{t-1} + i \odot u, \qquad h_t = o \odot \tanh c_t $$
#
# Say unit $k$ is to leave. Then $h$ becomes shorter by one, and everything that made or read $h[k]$ has to go with
# it:
#
# * the four gate rows that compute it, in $W_{ih}$ and $W_{hh}$ (*columns* in the talk, which stores the transposed
#   matrices);
# * the column of $W_{hh}$ that reads it one step later;
# * the column of the next layer that reads it.
#
# Take one of them alone and the shapes no longer fit. Together they are one group: an *Intrinsic Sparse Structure*.
# `by="unit"` finds such groups by asking every function on the tape which indices belong together.


# %%
class Reader(nn.Module):
    """Reads a digit row by row: 28 steps of 28 pixels. x: (N, 1, 28, 28) -> logits: (N, 10)."""

    def __init__(self, hidden, rng):
        self.lstm, self.out = nn.LSTM(28, hidden, rng=rng), nn.Linear(hidden, 10, rng=rng)

    def forward(self, x):
        h, _ = self.lstm(x.reshape(-1, 28, 28).transpose(0, 1))
        return self.out(h[-1])


def stacked(model):
    """[W_ih | W_hh] above [nothing | W_out]: column 28 + k of the picture is all that reads unit k."""
    w_ih, w_hh, out = model.lstm.weight_ih.data, model.lstm.weight_hh.data, model.out.weight.data
    return np.block([[w_ih, w_hh], [np.full((10, w_ih.shape[1]), np.nan), out]])


rng = np.random.default_rng(0)
reader, _ = train(Reader(32, rng), rng, epochs=24, lr=0.2, limit=1.0)
rng = np.random.default_rng(0)
sparse_reader, alive = train(
    Reader(32, rng), rng, epochs=24, lr=0.2, limit=1.0, penalty_from=4,
    make_penalty=lambda model: GroupLasso(groups(model, train_x[:1], by="unit"), lam=0.007),
)  # fmt: skip
print("units, epoch by epoch:", *(counts["lstm unit"][0] for counts in alive if counts))
print(f"test error: {error(reader):.1f} % with all 32 units, {error(sparse_reader):.1f} % with group Lasso")


# %%
def draw_zeros(ax, model, unit=None, order=None):
    """Where the weights of a Reader are exactly 0 (grey) or not (blue); `unit`: what belongs to it (orange).

    order: the units in another order than their own, which means nothing.
    """
    table = stacked(model)
    if order is not None:
        size = len(order)
        table[: 4 * size] = table[: 4 * size].reshape(4, size, -1)[:, order].reshape(4 * size, -1)
        table[:, 28:] = table[:, 28:][:, order]
    kind = np.where(np.isnan(table), 0, np.where(table == 0, 1, 2))
    hidden = model.lstm.weight_hh.shape[1]
    if unit is not None:
        for gate in range(4):
            kind[gate * hidden + unit, :] = 3
        kind[:, 28 + unit] = 3
    palette = np.array([[1, 1, 1], [0.87, 0.87, 0.87], [0.34, 0.6, 0.8], [0.84, 0.37, 0]])
    ax.imshow(palette[kind], aspect="auto", interpolation="nearest")
    for at in (27.5, 27.5 + hidden):
        ax.axvline(at, color="white", lw=1.5)
    for at in np.arange(1, 5) * hidden - 0.5:
        ax.axhline(at, color="white", lw=1.5)
    ax.set_yticks((np.arange(4) + 0.5) * hidden - 0.5, ["$i$", "$f$", "$u$", "$o$"])
    ax.set_xticks([13.5, 27.5 + hidden / 2], ["reads pixels ($W_{ih}$)", "reads units ($W_{hh}$)"])
    ax.tick_params(length=0)
    ax.text(27, 4 * hidden + 4.5, "next layer", ha="right", va="center", fontsize=10)
    ax.spines[:].set_visible(False)


dead = ~stacked(sparse_reader)[:, 28:].any(0)
figure, axes = plt.subplots(1, 2, figsize=(11, 4.6))
draw_zeros(axes[0], reader, unit=5)
axes[0].set_title("unit 5: four gate rows, one column (orange)")
draw_zeros(axes[1], sparse_reader)
axes[1].set_title(f"after group Lasso: {dead.sum()} of 32 units are exactly 0 (grey)")
show(
    figure,
    "The weights of an LSTM as one matrix: four blocks of rows for the gates i, f, u, o, columns for 28 "
    "pixels and 32 units, the next layer's weights below. Left: unit 5 is one row in each block and one "
    f"column from top to bottom. Right: after training with group Lasso, the rows and columns of {dead.sum()} "
    "units are exactly zero: grey stripes.",
)

# %% [markdown]
# Nobody reads the units whose columns are 0, so their rows can go too. By hand it is one index array per matrix; the
# result is an ordinary LSTM with fewer units.

# %%
H, keep = 32, np.flatnonzero(~dead)
rows = np.concatenate([gate * H + keep for gate in range(4)])  # the four gate rows of every kept unit
by_hand = Reader(len(keep), np.random.default_rng(0)).astype(np.float64)
old = {name: p.data.astype(np.float64) for name, p in sparse_reader.named_parameters()}
by_hand.load_state_dict({
    "lstm.weight_ih": old["lstm.weight_ih"][rows],
    "lstm.weight_hh": old["lstm.weight_hh"][np.ix_(rows, keep)],  # gate rows, and the column that reads the unit
    "lstm.bias_ih": old["lstm.bias_ih"][rows],
    "lstm.bias_hh": old["lstm.bias_hh"][rows],
    "out.weight": old["out.weight"][:, keep],
    "out.bias": old["out.bias"],
})  # fmt: skip
in_64 = Reader(H, np.random.default_rng(0)).astype(np.float64)
in_64.load_state_dict(old)
images = test_x[:200].astype(np.float64)
largest = np.abs(predict(by_hand, images) - predict(in_64, images)).max()
print(f"{H} units -> {len(keep)}; largest difference of the logits in float64: {largest:.1e}")
before, after = cost(sparse_reader, train_x[:1]), cost(by_hand, images[:1])
print(f"multiply-adds for one digit: {before.macs:,} -> {after.macs:,}")
assert largest < 1e-12

# %% [markdown]
# <details><summary>Question: the removed units had biases that are not 0, so their <i>h</i> is not 0. Why is the result
# still exact?</summary>
#
# Because nobody reads them: the column of $W_{hh}$ and the column of the next layer are 0. Whatever the unit says is
# multiplied by 0. The opposite case is different: a unit whose *incoming* weights are 0 but which is still read is
# not even constant, since its bias feeds its memory at every step.
# </details>

# %% [markdown]
# ## 3. Ternary gradients
#
# Many workers train one network. Each computes a gradient on its share of the batch, and all of them need the mean.
# With 32-bit floats, sending gradients can take longer than computing them. TernGrad sends one of three values per
# weight:
#
# $$ s = \max |g|, \qquad P(b = 1) = \frac{|g|}{s}, \qquad \tilde g = s \cdot \mathrm{sign}(g) \cdot b, \qquad
#    E[\tilde g] = g $$
#
# **Predict, then run.** The talk's vector is $g = (0.30, -1.20, \ldots, 0.9)$. What is $s$? With what probability is
# the first number kept? Which number is *always* kept? And once kept, what does the first number become?

# %%
g = np.array([0.30, -1.20, 0.90])  # the numbers that the talk writes out
ternariser = Ternariser()
for name, value in ternariser.steps(g):
    print(f"{name:4} = {np.round(np.asarray(value, float), 2)}")

# %% [markdown]
# <details><summary>Answer</summary>
#
# $s = 1.20$. The first number is kept with probability $0.30 / 1.20 = 0.25$, and if it is, it becomes $1.20$: four
# times too large, one time in four. The second is kept always, because it is the maximum.
# </details>
#
# One draw is crude. The mean of many draws, by many workers or over many steps, is not: its error falls like $1/\sqrt
# n$. And on a real gradient almost nothing has to be sent.

# %%
true = Tensor(train_x[:256])
model = network(np.random.default_rng(1))
cross_entropy(model(true), train_y[:256]).backward()
real = model[5].weight.grad  # the largest layer's gradient: 64 x 384 numbers
trits = ternariser.trits(real)
scale = ternariser.scales(real)[0]

draws = 1.2 * Ternariser(clip=None).trits(np.tile(g, 2**18)).reshape(-1, 3)  # 262,144 draws of the talk's vector
counts = 2 ** np.arange(13)
errors = [np.sqrt(np.square(draws.reshape(-1, n, 3).mean(1) - g).sum(1).mean()) for n in counts]
expected = np.sqrt((np.abs(g) * (1.2 - np.abs(g))).sum() / counts)  # Var[g~] = |g| (s - |g|)


def draw_trits(ax, legend=True):
    """A real gradient as floats, and the same gradient as -s, 0 and s."""
    edge = 1.3 * scale
    bins = np.linspace(-edge, edge, 66)
    ax.hist(real.ravel(), bins, color="0.75", label="32-bit floats")
    count = [np.mean(trits == t) for t in (-1, 0, 1)]
    ax.bar([-scale, 0, scale], np.array(count) * real.size, 0.09 * edge, color=BLUE, alpha=0.85, label="ternary")
    for t, share in zip((-scale, 0, scale), count, strict=True):
        ax.text(t, share * real.size * 1.15, f"{100 * share:.0f} %", ha="center", color=BLUE)
    ax.set(yscale="log", ylim=(10, 1e5), xlim=(-edge, edge), ylabel="how many of the numbers")
    ax.set_xticks([-scale, 0, scale], ["$-s$", "0", "$s$"])
    if legend:
        ax.legend(loc="upper right", fontsize=9)


figure, axes = plt.subplots(1, 3, figsize=(13, 3.6))
axes[0].loglog(counts, expected, color=BLACK, label="expected, $\\propto 1/\\sqrt{n}$")
axes[0].loglog(counts, errors, "o", color=RED, label="measured")
axes[0].set(title="error of the mean of n draws", xlabel="n")
axes[0].legend()
draw_trits(axes[1])
axes[1].set_title("a real gradient, and what is sent")
sizes = [4 * real.size, message_bytes(real.size, "2bit"), message_bytes(real.size, "base3")]
axes[2].barh(["floats", "2 bits each", "5 in a byte"], sizes, color=("0.75", BLUE, BLUE))
for k, size in enumerate(sizes):
    less = f"\n{sizes[0] / size:.1f} times less" if k else ""
    axes[2].text(size + 1500, k, f"{size:,} bytes{less}", va="center", fontsize=10)
axes[2].invert_yaxis()
axes[2].set(title="one message of 24,576 gradients", xlim=(0, 150_000), xticks=[])
axes[2].spines["bottom"].set_visible(False)
show(
    figure,
    "Left: the error of the mean of n ternary draws of the talk's vector falls along a line proportional to "
    "one over the square root of n, as computed. Middle: histogram of a real gradient, a narrow bell, and its "
    f"ternary form: three bars at minus s, 0 and s, {100 * np.mean(trits == 0):.0f} percent at 0. Right: bytes "
    f"of one message, 98,304 as floats, {sizes[1]:,} with 2 bits a number, {sizes[2]:,} with five numbers in a "
    "byte.",
)

# %% [markdown]
# `Ternariser()` clips by default: $s = \min(2.5\,\sigma, \max|g|)$. Otherwise a single outlier would make $s$ large
# and nearly everything 0. (A vector as short as the talk's has no useful $\sigma$ and is not clipped.)
#
# Does a network learn from that? Two workers share each batch. They agree on one scale, draw their own trits, and
# average. Only the line that makes `mean` differs between the two runs.


# %%
def train_with_two_workers(ternary, steps=400):
    rng = np.random.default_rng(2)
    model = mlp((784, 100, 10), rng=rng)
    optimizer, losses = SGD(model.parameters(), lr=0.1, momentum=0.9), []
    for step in range(steps):
        optimizer.lr = 0.1 * (1 - step / steps)
        chosen = rng.integers(0, len(train_x), 128)
        grads, both = [], 0.0
        for worker in range(2):  # each works on its half of the batch
            half = chosen[worker::2]
            loss = cross_entropy(model(Tensor(train_x[half].reshape(64, 784))), train_y[half])
            optimizer.zero_grad()
            loss.backward()
            grads.append([p.grad for p in model.parameters()])
            both += loss.item() / 2
        for tensor, (p, a, b) in enumerate(zip(model.parameters(), *grads, strict=True)):
            mean = (a + b) / 2
            if ternary:
                own = [ternariser.scales(part) for part in (a, b)]
                s = np.maximum(*own)  # one scale for all: then the sum of the trits is a sum of small integers
                t = [
                    ternariser.trits(part, s, own=o, step=step, worker=w, tensor=tensor)
                    for w, (part, o) in enumerate(zip((a, b), own, strict=True))
                ]
                mean = (s / 2 * (t[0] + t[1])).reshape(p.shape)
            p.grad = mean.astype(np.float32)
        optimizer.step()
        losses.append(both)
    return model, losses


runs = {name: train_with_two_workers(name == "ternary") for name in ("floats", "ternary")}
figure, ax = plt.subplots(figsize=(7, 3.4))
for (name, (model, losses)), colour, dash in zip(runs.items(), (BLACK, BLUE), ("-", "--"), strict=True):
    wrong = 100 * (1 - accuracy(model, test_x.reshape(-1, 784), test_y))
    print(f"{name:8} test error {wrong:.1f} %")
    mean = np.convolve(losses, np.ones(15) / 15, "valid")
    ax.semilogy(mean, dash, color=colour, label=f"{name}: test error {wrong:.1f} %")
ax.set(title="two workers, the same start and the same batches", xlabel="step", ylabel="loss (mean of 15 steps)")
ax.legend()
show(
    figure,
    "Training loss of a network on digits over 400 steps, with float gradients and with ternary gradients "
    "from two workers. Both curves fall by more than ten times; the ternary one is noisier and stays a little "
    "above the other.",
)

# %% [markdown]
# <details><summary>Question: why must every worker draw its own random numbers?</summary>
#
# Workers with similar gradients would then keep the same numbers and drop the same numbers, and the errors would not
# average out: with equal gradients, a thousand workers would be as noisy as one. In minidl the draw depends on the
# seed, the step, the worker and the tensor, and on nothing else.
# </details>

# %% [markdown]
# ## 4. SmoothOut
#
# Large batches tend to end in *sharp* minima, and sharp minima generalise worse, says the talk. SmoothOut takes the
# gradient not at $w$ but at a random point near it, and steps from $w$:
#
# $$ \theta \sim U(-a, a), \qquad w \leftarrow w - \eta\, \nabla L(w + \theta) $$
#
# On average this is descent on $L_a(w) = E[L(w + \theta)]$, the loss seen through a box of width $2a$. Here is a loss
# with a sharp minimum and a wide one, both nearly equally deep.


# %%
def loss_at(w):
    """A wide valley at 1, and a narrow one, nearly as deep, at -1.4. Works on arrays and on Tensors."""
    return 1 - 0.9 * np.exp(-((w - 1) ** 2) / (2 * 1.2**2)) - 0.75 * np.exp(-((w + 1.4) ** 2) / (2 * 0.12**2))


grid = np.linspace(-6, 6, 12001)
integral = np.concatenate([[0], np.cumsum((loss_at(grid)[1:] + loss_at(grid)[:-1]) / 2 * np.diff(grid))])


def smoothed(w, a):
    """L_a(w) = (F(w + a) - F(w - a)) / 2a, with F the integral of L: exactly the mean over the box."""
    return (np.interp(w + a, grid, integral) - np.interp(w - a, grid, integral)) / (2 * a)


class Point(nn.Module):
    """A network of one weight."""

    def __init__(self, w):
        self.w = nn.Parameter(np.array([w]))

    def forward(self):
        return loss_at(self.w).sum()


def descend(a, steps=1000, lr=0.02):
    model, rng = Point(-1.45), np.random.default_rng(0)
    optimizer, path = SGD(model.parameters(), lr=lr), []
    for _ in range(steps):
        path.append(model.w.data.item())
        optimizer.zero_grad()
        with smoothout(model, a=a, rng=rng):  # w + theta
            model().backward()
        optimizer.step()  # from w, which is back bit for bit
    return np.array(path)


ws = np.linspace(-3, 4, 1401)
curves = ((0.3, ORANGE, "--"), (0.6, GREEN, "-."), (1.2, BLUE, "-"))


def draw_smoothing(ax, chosen=curves):
    ax.plot(ws, loss_at(ws), color=BLACK, lw=1.2, label="$L$")
    for a, colour, dash in chosen:
        ax.plot(ws, smoothed(ws, a), dash, color=colour, lw=2, label=f"$L_a$, $a = {a:g}$")
    ax.set(xlabel="w", ylabel="loss", ylim=(0, 1.3), yticks=[0, 0.5, 1])


figure, axes = plt.subplots(1, 3, figsize=(13, 3.6), width_ratios=(1.3, 1, 1))
draw_smoothing(axes[0])
axes[0].set_title("a box fills the sharp valley")
axes[0].legend(loc="upper right", fontsize=9, ncols=2)
for a, colour, dash in ((0.0, BLACK, "--"), (1.2, BLUE, "-")):
    axes[1].plot(descend(a), dash, color=colour, label="plain descent" if a == 0 else "SmoothOut, $a = 1.2$")
axes[1].set(title="both start in the sharp valley", xlabel="step", ylabel="w", ylim=(-3, 3))
axes[1].legend(loc="upper left")
k = np.linspace(0.01, 12, 200)
dots = np.linspace(0.5, 11.5, 12)
theta = np.random.default_rng(0).uniform(-1, 1, 20_000)
axes[2].plot(k, np.sin(k) / k, color=BLACK, label="$\\sin(ka)/(ka)$")
axes[2].plot(dots, [np.cos(f * theta).mean() for f in dots], "o", color=RED, label="mean of 20,000 draws")
axes[2].axhline(0, color="0.7", lw=0.8, zorder=0)
axes[2].set(title="what is left of $\\cos kw$", xlabel="ka: how sharp, against the box")
axes[2].legend()
show(
    figure,
    "Left: a loss with a narrow deep valley at -1.4 and a wide one at 1, and the loss smoothed by boxes of "
    "half-width 0.3, 0.6 and 1.2: the narrow valley fills up until it is gone, the wide one stays. Middle: "
    "plain descent stays at -1.4, SmoothOut leaves and settles near 1. Right: the factor sin(ka)/(ka) by "
    "which a cosine shrinks; measured dots lie on the curve.",
)

for a in (0.0, 0.3, 0.6, 1.2):
    curve = smoothed(ws, a) if a else loss_at(ws)
    valleys = ws[1:-1][(curve[1:-1] < curve[:-2]) & (curve[1:-1] < curve[2:])]
    print(f"a = {a}: valleys at w =", ", ".join(f"{valley:.2f}" for valley in valleys))

# %% [markdown]
# The one line behind it:
#
# $$ E[\cos k(w + \theta)] = \cos(kw) \, \frac{\sin ka}{ka} $$
#
# Every loss is a sum of cosines. The quick ones (sharp) are averaged away, the slow ones (wide) pass: SmoothOut is a
# low-pass filter on the loss.
#
# <details><summary>Question: why are the old weights put back, rather than the noise subtracted again?</summary>
#
# In floating point $(w + \theta) - \theta$ is not $w$. Over many steps the rounding would be a random walk of its
# own. minidl keeps the old array and puts that back, bit for bit.
# </details>

# %% [markdown]
# ## The four in one picture

# %% tags=["picture"] file="the_talk.png"
figure, axes = plt.subplots(1, 4, figsize=(16, 4.5), width_ratios=(1.15, 1, 1, 1))
gone = draw_filters(axes[0], first_sparse)
axes[0].set_anchor("N")
draw_zeros(axes[1], sparse_reader, order=np.argsort(dead, kind="stable"))  # units that stay come first
draw_trits(axes[2])
draw_smoothing(axes[3], chosen=curves[2:])
arrow = {"arrowprops": {"arrowstyle": "->"}, "fontsize": 11}
axes[3].annotate("sharp:\ngone", (-1.4, smoothed(-1.4, 1.2)), (-2.9, 0.3), **arrow)
axes[3].annotate("wide:\nstays", (1, smoothed(1, 1.2)), (2.6, 0.1), **arrow)
axes[3].legend(loc="upper right", ncols=2)
for ax, title in zip(axes, (
    f"1. Structured sparsity\n{gone} of 12 filters are exactly 0",
    f"2. Sparse LSTM units\n{dead.sum()} of 32 units leave, rows and columns",
    f"3. Ternary gradients\n{sizes[0] / sizes[2]:.0f} times fewer bytes, the same mean",
    "4. SmoothOut\nnoise on weights fills sharp valleys",
), strict=True):  # fmt: skip
    ax.set_title(title, fontsize=13, loc="left")
show(
    figure,
    f"Four panels. One: twelve filters, {gone} crossed out because they are exactly zero. Two: an LSTM's "
    f"weight matrix, the units that stay first; grey where {dead.sum()} of 32 units are zero. Three: a real gradient's "
    "histogram and its ternary form, three bars. Four: a loss with a sharp and a wide valley; smoothed by a "
    "box, only the wide one is left.",
)

# %% [markdown]
# All of it happened between `backward()` and `step()`: a proximal step on weights, a draw that replaces gradients,
# noise that comes and goes. None of the layers knew. This is why the four can be combined: a small network, trained
# by many workers that say little, on large batches.
#
# ## Change one thing
#
# Change a number, run from that cell on, and compare with what to expect.
#
# | change | direction to expect |
# |---|---|
# | `lam=0.02` to `0.1` in chapter 1 | Expect fewer filters, down to one or two, and a test error that begins to rise. |
# | `by="filter"` to `"filter+channel"` in chapter 1 | Expect fewer filters in layer 1: their readers now pay, too. |
# | `lam=0.007` to `0.003` in chapter 2 | Expect all 32 units to stay: below some lambda no unit leaves. |
# | `Ternariser()` to `Ternariser(clip=None)`, chapter 3 | Expect more zeros. The loss may rise or fall. |
# | `1.2` to `0.1` where `descend` is called, chapter 4 | Expect it to stay: the box is narrower than the valley. |
#
# Clipping is a trade: less noise, but numbers beyond $2.5\,\sigma$ are cut, so the mean is no longer exactly $g$.
# Which of the two matters more depends on the gradient; that is why the clip is an argument.
#
# ## References
#
# * W. Wen, C. Wu, Y. Wang, Y. Chen, H. Li: *Learning Structured Sparsity in Deep Neural Networks*, NIPS 2016,
#   arXiv:1608.03665. Chapter 1: equations (1) and (2).
# * W. Wen et al.: *Learning Intrinsic Sparse Structures within Long Short-Term Memory*, ICLR 2018, arXiv:1709.05027.
# * W. Wen et al.: *TernGrad: Ternary Gradients to Reduce Communication in Distributed Deep Learning*, NIPS 2017,
#   arXiv:1705.07878. Chapter 3: equations (2) to (5).
# * W. Wen et al.: *SmoothOut: Smoothing Out Sharp Minima to Improve Generalization in Deep Learning*, 2018,
#   arXiv:1805.07898.
# * M. Yuan, Y. Lin: *Model selection and estimation in regression with grouped variables*, JRSS B 68 (2006).
# * The digits: Y. LeCun, C. Cortes, C. Burges, *The MNIST database*.
