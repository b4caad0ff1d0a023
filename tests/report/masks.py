"""A sliding window without a compiler: its boxes and its pairs, for tests of pictures."""

import numpy as np

from attncc.report.picture import FULL, PARTIAL, SKIP, make_canvas, make_picture


def window_picture(q_len, kv_len, tile=128, window=lambda head: 256, heads=1, pixels=512, evaluated=None):
    """The picture of `0 <= q - kv < window(head)`; `evaluated` collects how many pairs were looked at."""

    def visible(head, q, kv):
        if evaluated is not None:
            evaluated.append(q.size * kv.size)
        distance = q[:, None] - kv[None]
        return (distance >= 0) & (distance < window(head))

    def classify(head, box_q, box_kv):
        q_min, kv_min = np.arange(0, q_len, box_q), np.arange(0, kv_len, box_kv)
        q_max, kv_max = np.minimum(q_min + box_q, q_len) - 1, np.minimum(kv_min + box_kv, kv_len) - 1
        nearest, farthest = q_min[:, None] - kv_max, q_max[:, None] - kv_min
        classes = np.full(nearest.shape, PARTIAL, np.uint8)
        classes[(farthest < 0) | (nearest >= window(head))] = SKIP
        classes[(nearest >= 0) & (farthest < window(head))] = FULL
        return classes

    return make_picture("window", make_canvas(q_len, kv_len, tile, tile), range(heads), classify, visible, pixels)
