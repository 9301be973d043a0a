"""The books of paid calls: nothing that was kept is lost or counted twice, whenever the process is killed."""

import json
import signal
import subprocess
import sys
import threading
import tracemalloc
from collections.abc import Mapping
from pathlib import Path

import pytest

from radit_job.errors import ConfigError, StoreError
from radit_job.models.cost import Price, Prices, Spent, Usage
from radit_job.models.ledger import Ledger, Reservation
from radit_job.models.row_files import MERGED_FILES

ONE = Usage(1, 1000, 100)
PRICES = {"m": Price(1.0, 10.0)}  # ONE costs 0.002


def keep(ledger: Ledger, key: str, usage: Usage = ONE) -> None:
    ledger.keep(key, {"text": key}, ledger.reserve("m", usage), usage)


def test_what_many_threads_keep_is_all_there_after_reopening_and_is_saved_in_groups(tmp_path: Path) -> None:
    saved: list[int] = []
    ledger = Ledger(tmp_path, prices=PRICES, save=lambda spent: saved.append(spent["m"].usage.n_calls))

    def work(thread: int) -> None:
        for number in range(40):
            keep(ledger, f"{thread}-{number}")
            assert saved  # it returned, so it was saved

    threads = [threading.Thread(target=work, args=(number,)) for number in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    again = Ledger(tmp_path, prices=PRICES)
    assert all(again.find(f"{t}-{n}") == {"text": f"{t}-{n}"} for t in range(16) for n in range(40))
    assert again.spent["m"].usage == ledger.spent["m"].usage == Usage(640, 640_000, 64_000)
    assert again.spent["m"].usd == pytest.approx(1.28)
    assert saved[-1] == 640
    assert len(saved) < 640


def test_saving_one_by_one_leaves_few_files_and_every_answer(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    n = 2 * MERGED_FILES + 3
    for number in range(n):
        keep(ledger, str(number))
    assert len(list(tmp_path.iterdir())) == 2 + 3
    assert all(ledger.find(str(number)) == {"text": str(number)} for number in range(n))
    again = Ledger(tmp_path)
    assert again.spent["m"].usage.n_calls == n
    assert all(again.find(str(number)) == {"text": str(number)} for number in range(n))
    keep(again, "one more")
    assert Ledger(tmp_path).spent["m"].usage.n_calls == n + 1


def test_a_process_killed_between_merging_and_deleting_counts_nothing_twice(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    for number in range(MERGED_FILES - 1):
        keep(ledger, str(number))
    small = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    keep(ledger, "last")
    for name, content in small.items():  # as if it had been killed before it could delete them
        (tmp_path / name).write_bytes(content)
    (tmp_path / "0-000000099.partial").write_text('{"key": ')
    again = Ledger(tmp_path)
    assert again.spent["m"].usage.n_calls == MERGED_FILES
    for number in range(MERGED_FILES):  # merges them once more
        keep(again, f"later {number}")
    assert Ledger(tmp_path).spent["m"].usage.n_calls == 2 * MERGED_FILES


KEEPER = """
import sys, threading
from pathlib import Path
from radit_job.models.cost import Usage
from radit_job.models.ledger import Ledger
ledger = Ledger(Path(sys.argv[1]))
def work(thread):
    for number in range(100_000):
        key = f"{sys.argv[2]}-{thread}-{number}"
        ledger.keep(key, "x" * 200, ledger.reserve("m", Usage(1, 7)), Usage(1, 7))
        sys.stdout.write(key + "\\n"); sys.stdout.flush()
for thread in range(4):
    threading.Thread(target=work, args=(thread,)).start()
"""


def test_killed_at_any_moment_it_still_has_what_it_said_it_kept(tmp_path: Path) -> None:
    told: list[str] = []
    for life, n_lines in enumerate((1, 70, 230)):
        process = subprocess.Popen(
            [sys.executable, "-c", KEEPER, tmp_path, str(life)], stdout=subprocess.PIPE, text=True
        )
        assert process.stdout is not None
        told += [process.stdout.readline().strip() for _ in range(n_lines)]
        process.send_signal(signal.SIGKILL)
        told += [line.strip() for line in process.stdout if line.endswith("\n")]
        process.wait()
        ledger = Ledger(tmp_path)
        assert all(ledger.find(key) == "x" * 200 for key in told)
        n_calls = ledger.spent["m"].usage.n_calls
        assert len(told) <= n_calls <= len(told) + 4 * (life + 1)  # what each thread had not told yet
        assert ledger.spent["m"].usage.n_prompt_tokens == 7 * n_calls


def test_what_the_store_does_not_take_is_an_error_and_goes_with_the_next(tmp_path: Path) -> None:
    broken = True

    def save(spent: object) -> None:
        if broken:
            raise StoreError("full")

    ledger = Ledger(tmp_path, save=save)
    with pytest.raises(StoreError, match="full"):
        keep(ledger, "first")
    broken = False
    keep(ledger, "second")
    again = Ledger(tmp_path)
    assert again.find("first") and again.find("second")
    assert again.spent["m"].usage.n_calls == 2


def test_the_budget_counts_what_is_spent_and_what_is_set_aside() -> None:
    ledger = Ledger(prices=PRICES, budget_usd=0.006)
    keep(ledger, "first")
    second, third = ledger.reserve("m", ONE), ledger.reserve("m", ONE)  # exactly what is left
    with pytest.raises(ConfigError, match=r"may cost \$0.0020, and \$0.0060 of the \$0.0060") as told:
        ledger.reserve("m", Usage(1, 1000, 100))
    assert told.value.where == "spending.budget_usd"
    ledger.release(second)
    ledger.keep("third", "", third, Usage(1, 100, 0))  # it cost less than was set aside
    ledger.reserve("m", ONE)


def test_what_an_earlier_try_spent_counts_against_the_budget(tmp_path: Path) -> None:
    keep(Ledger(tmp_path, prices=PRICES), "first")
    with pytest.raises(ConfigError):
        Ledger(tmp_path, prices=PRICES, budget_usd=0.003).reserve("m", ONE)
    Ledger(tmp_path, prices=PRICES, budget_usd=0.004).reserve("m", ONE)


def test_a_budget_without_a_price_stops_before_the_first_call() -> None:
    with pytest.raises(ConfigError, match="no price for other") as told:
        Ledger(prices=PRICES, budget_usd=1.0).reserve("other", ONE)
    assert told.value.where == "spending.prices"
    with pytest.raises(ConfigError, match="in training"):
        Ledger(prices=PRICES, budget_usd=1.0).reserve("m", Usage(n_training_tokens=1))


def test_an_unknown_price_is_an_unknown_sum_and_never_zero() -> None:
    ledger = Ledger(prices={})
    keep(ledger, "first")
    assert ledger.spent["m"].usd is None
    assert ledger.spent["m"].to_json()["usd"] is None


def test_what_is_paid_for_twice_costs_twice_and_the_first_answer_stands(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path, prices=PRICES)
    for text in ("first", "second", "third"):
        ledger.keep("same", text, ledger.reserve("m", ONE), ONE)
    again = Ledger(tmp_path, prices=PRICES)
    assert again.find("same") == "first"
    assert again.spent == ledger.spent
    assert again.spent["m"].usage.n_calls == 3


def test_a_tuned_model_has_the_price_of_its_kind_and_no_other_name_is_cut() -> None:
    prices = Prices({"ft:gpt-x": Price(3.0), "gpt-x": Price(1.0), "llama3": Price(0.0), "ft": Price(9.0)})
    assert prices.of("llama3:70b") is None
    assert prices.of("ft:gpt-y:me::7") is None
    assert prices.of("ft:gpt-x:me::7") == Price(3.0)
    assert prices.of("gpt-x") == Price(1.0)
    assert prices.of("gpt-x-large") is None


def test_no_more_is_told_to_be_spent_than_the_files_hold(tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []

    def save(spent: Mapping[str, Spent]) -> None:
        told.append((spent["m"].usage.n_calls, Ledger(tmp_path).spent["m"].usage.n_calls))

    ledger = Ledger(tmp_path, prices=PRICES, save=save)

    def work(thread: int) -> None:
        for number in range(15):
            keep(ledger, f"{thread}-{number}")
            ledger.save()

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert told[-1] == (120, 120)
    assert all(said == held for said, held in told)


def test_what_is_booked_counts_and_is_no_answer_until_one_is_kept(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path, prices=PRICES, budget_usd=0.006)
    ledger.book("job", ledger.reserve("m", Usage(1, 2000, 200)), Usage(1, 2000, 200))
    ledger.book("lost", ledger.reserve("m", ONE), Usage(1, 500, 0))
    for seen in (ledger, Ledger(tmp_path, prices=PRICES, budget_usd=0.006)):
        assert seen.find("job") is None
        assert seen.spent["m"].usage == Usage(2, 2500, 200)
        assert seen.spent["m"].usd == pytest.approx(0.0045)
        with pytest.raises(ConfigError):
            seen.reserve("m", ONE)
    again = Ledger(tmp_path, prices=PRICES, budget_usd=0.006)
    again.keep("job", "ended", Reservation("m", 0.0), Usage())  # it failed, and cost nothing
    again.book("job", Reservation("m", 0.0), ONE)  # too late
    for seen in (again, Ledger(tmp_path, prices=PRICES, budget_usd=0.006)):
        assert seen.find("job") == "ended"
        assert seen.spent["m"].usage == Usage(1, 500, 0)
        assert seen.spent["m"].usd == pytest.approx(0.0005)
        seen.reserve("m", ONE)


def test_booked_again_under_its_key_it_counts_once(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path, prices=PRICES)
    for n_tokens in (900, 1000):
        ledger.book("job", ledger.reserve("m", ONE), Usage(0, 0, n_tokens))
    for number in range(MERGED_FILES):
        keep(ledger, str(number), Usage(1))
    assert ledger.spent == Ledger(tmp_path, prices=PRICES).spent
    assert ledger.spent["m"].usage == Usage(MERGED_FILES, 0, 1000)


def test_answers_stay_in_the_files_and_not_in_memory(tmp_path: Path) -> None:
    tracemalloc.start()
    try:
        ledger = Ledger(tmp_path)
        for number in range(80):
            ledger.keep(str(number), f"{number} " + "x" * 100_000, ledger.reserve("m", ONE), ONE)
        again = Ledger(tmp_path)
        held_bytes, most_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert held_bytes < 1e6
    assert most_bytes < 3e6
    for seen in (ledger, again):
        assert all(str(seen.find(str(number))).startswith(f"{number} x") for number in range(80))


def test_rows_are_plain_json_lines(tmp_path: Path) -> None:
    keep(Ledger(tmp_path, prices=PRICES), "käse")
    (file,) = tmp_path.iterdir()
    row = json.loads(file.read_text(encoding="utf-8"))
    assert (row["key"], row["model"], row["usd"]) == ("käse", "m", pytest.approx(0.002))
