"""The results of `attncc bench` as tables."""

from attncc.report.benchmark import Benchmark, Timing, benchmark_dict, benchmark_markdown, rows


def timing(contender, direction="forward", ms=None, tflops=None, note=None, case="causal"):
    return Timing(case, contender, 128, 8192, direction, ms, tflops, note=note)


FOUND = Benchmark(
    "H100",
    "torch 2.11, triton 3.6",
    "bfloat16",
    700.0,
    (
        timing("attncc", ms=1.25, tflops=450.0),
        timing("FlexAttention", ms=1.5, tflops=375.0),
        timing("SDPA (cuDNN)", ms=0.999, tflops=563.0),
        timing("attncc", "backward", ms=12.5, tflops=112.0),
        timing("FlexAttention", "backward", note="OutOfMemoryError: no memory"),
        timing("attncc", case="alibi", ms=2.0, tflops=300.0),
        timing("SDPA (cuDNN)", case="alibi", note="SDPA modifies no scores"),
    ),
)


def test_markdown_reads_as_agreed(golden):
    assert benchmark_markdown(FOUND) == golden


def test_a_ratio_above_1_says_that_attncc_is_faster():
    assert rows(FOUND)[0] == [
        *("causal", "8192", "128", "forward", "1.250", "450", "64 %"),
        *("1.500", "1.20", "0.999", "0.80"),
    ]


def test_what_is_missing_is_a_dash_with_a_note():
    assert rows(FOUND)[1][-4:] == ["–"] * 4
    assert "FlexAttention: OutOfMemoryError: no memory (causal)" in FOUND.notes


def test_shares_are_part_of_the_plain_values():
    shares = [timing["share"] for timing in benchmark_dict(FOUND)["timings"]]
    assert shares[0] == 450 / 700
    assert shares[4] is None


def test_a_run_without_any_time_still_has_a_table():
    nothing = Benchmark("CPU", "torch", "float32", None, (timing("attncc", note="took longer than 1 s"),))
    assert rows(nothing) == [["causal", "8192", "128", "forward", "–", "–"]]
