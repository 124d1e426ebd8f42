"""The doctor: each finding with its mend, secrets never shown, nothing heavy imported."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from workbench.doctor import libraries, machine, probes
from workbench.doctor.libraries import build_supports
from workbench.home import Home
from workbench.machine.cards import Card
from workbench.machine.sampler import CardReading, MachineReading, Process

GIB = 1 << 30
CUDA_13 = ["sm_75", "sm_80", "sm_86", "sm_90", "sm_100", "sm_120"]
TORCH = {"version": "2.13.0", "cuda": "13.0", "available": True, "arches": CUDA_13}
CPU_TORCH: dict[str, object] = {
    "version": "2.13.0+cpu",
    "cuda": None,
    "available": False,
    "arches": [],
}


def reading_from(name: str, capability: tuple[int, int]) -> CardReading:
    card = Card(
        uuid="GPU-6f1a2b3c", kind="cuda", name=name, total_bytes=16 * GIB, capability=capability
    )
    return CardReading(card=card, free_bytes=15 * GIB, used_bytes=GIB)


ADA = reading_from("RTX 4090", (8, 9))
V100 = reading_from("Tesla V100", (7, 0))


def all_of(*cards: CardReading) -> MachineReading:
    return MachineReading(at_utc=1.0, cards=cards, driver="580.65.06")


@pytest.mark.parametrize(
    ("capability", "arches", "runs"),
    [
        ((8, 6), ["sm_86"], True),
        ((8, 9), ["sm_80", "sm_90"], True),
        ((8, 0), ["sm_86"], False),
        ((7, 0), CUDA_13, False),
        ((12, 0), CUDA_13, True),
        ((12, 0), ["sm_90", "compute_90"], True),
        ((8, 9), ["compute_90"], False),
        ((9, 0), ["sm_90a"], True),
        ((9, 1), ["sm_90a"], False),
        ((9, 0), ["nonsense", "sm_"], False),
    ],
)
def test_a_build_runs_where_its_architectures_do(
    capability: tuple[int, int], arches: list[str], runs: bool
) -> None:
    assert build_supports(capability, arches) is runs


def test_a_configuration_with_a_mistake_is_reported_with_its_line(tmp_path: Path) -> None:
    file = tmp_path / "config.toml"
    assert machine.check_config(file).status == "ok"
    file.write_text("[guards]\nsahre = true\n")
    check = machine.check_config(file)
    assert check.status == "warn"
    assert f"{file}:2" in check.finding
    file.write_text("[guards]\npause_above_c = 87\n")
    assert "pauses above 87 °C" in machine.check_config(file).finding


class TestCards:
    def test_a_card_tells_what_it_gets_and_why(self) -> None:
        check = libraries.check_card(ADA, TORCH)
        assert check.status == "ok"
        assert "15.0 of 16.0 GiB free" in check.finding
        assert "bf16" in check.finding

    def test_what_the_guards_have_to_go_by_is_reported(self) -> None:
        user = Process(pid=7311, bytes=GIB, name="blender")
        seen = replace(ADA, temperature_c=61, energy_j=5.0, xid_watch=True, processes=(user,))
        finding = libraries.check_card(seen, TORCH).finding
        for told in ("61 °C", "energy by its counter", "Xid errors reported", "pid 7311 (blender)"):
            assert told in finding
        silent = libraries.check_card(ADA, TORCH).finding
        assert "no temperature, no energy, no Xid errors reported" in silent

    def test_a_card_that_torch_left_behind_is_named(self) -> None:
        check = libraries.check_card(V100, TORCH)
        assert check.status == "fail"
        assert "Tesla V100" in check.finding
        assert "has no code for it" in check.finding
        assert "older CUDA" in check.hint

    def test_a_lost_card_is_reported(self) -> None:
        check = libraries.check_card(replace(ADA, problem="GPU is lost"), TORCH)
        assert check.status == "fail"
        assert "GPU is lost" in check.finding

    def test_a_card_is_shown_even_where_torch_does_not_answer(self) -> None:
        assert libraries.check_card(ADA, {"problem": "no answer"}).status == "ok"


class TestTorch:
    def test_a_cpu_build_beside_a_gpu_is_a_failure(self) -> None:
        check = libraries.check_torch(CPU_TORCH, all_of(ADA))
        assert check.status == "fail"
        assert "RTX 4090" in check.finding

    def test_a_cpu_build_without_gpu_is_well(self) -> None:
        assert libraries.check_torch(CPU_TORCH, all_of()).status == "ok"

    def test_a_cuda_build_that_cannot_reach_its_gpu_is_a_failure(self) -> None:
        check = libraries.check_torch({**TORCH, "available": False}, all_of(ADA))
        assert check.status == "fail"
        assert "driver" in check.hint

    def test_a_slow_library_is_a_warning_and_a_broken_one_a_failure(self) -> None:
        slow = {"problem": "no answer within 14 s", "slow": True}
        assert libraries.check_torch(slow, all_of()).status == "warn"
        assert libraries.check_ray({"problem": "ModuleNotFoundError"}).status == "fail"


def test_wrong_numbers_of_bitsandbytes_are_a_failure() -> None:
    right = {"version": "0.50.2", "device": "cuda", "error": 0.03}
    assert libraries.check_bitsandbytes(right).status == "ok"
    assert libraries.check_bitsandbytes({**right, "error": float("nan")}).status == "fail"


def test_an_old_sqlite_is_a_failure() -> None:
    assert libraries.check_sqlite({"version": "3.40.1"}).status == "ok"
    assert libraries.check_sqlite({"version": "3.36.0"}).status == "fail"


def test_a_driver_that_fails_is_a_failure_and_none_a_warning() -> None:
    assert libraries.check_driver(all_of(ADA)).status == "ok"
    assert libraries.check_driver(replace(all_of(), driver="")).status == "warn"
    assert libraries.check_driver(replace(all_of(), problem="mismatch")).status == "fail"


class TestHome:
    def test_a_home_open_to_others_is_a_warning(self, tmp_path: Path) -> None:
        tmp_path.chmod(0o755)
        check = machine.check_home(Home(tmp_path))
        assert (check.status, check.hint) == ("warn", f"chmod 700 {tmp_path}")

    def test_a_home_of_ones_own_is_well(self, tmp_path: Path) -> None:
        tmp_path.chmod(0o700)
        assert machine.check_home(Home(tmp_path)).status == "ok"

    def test_a_home_that_is_not_made_yet_is_well_and_stays_so(self, tmp_path: Path) -> None:
        home = Home(tmp_path / "a" / "b")
        assert machine.check_home(home).status == "ok"
        assert f" free at {home.root}" in machine.check_disk(home).finding
        assert not home.root.exists()

    def test_a_disk_below_the_floor_of_the_configuration_is_a_failure(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "workbench").mkdir()
        config = tmp_path / "workbench" / "config.toml"
        config.write_text('[guards]\ndisk_floor = "9000000GiB"\n')
        monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
        check = machine.check_disk(Home(tmp_path))
        assert check.status == "fail"
        assert "(guards.disk_floor): nothing new starts" in check.finding

    def test_a_home_that_is_a_file_is_a_failure(self, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        assert machine.check_home(Home(tmp_path / "file" / "home")).status == "fail"


def test_locks_of_gpus_that_other_users_cannot_see_are_a_warning(tmp_path: Path) -> None:
    check = machine.check_locks((tmp_path,))
    assert (check.status, "two users can start on one card" in check.finding) == ("warn", True)
    assert f"make {tmp_path} a sticky folder" in check.hint
    tmp_path.chmod(0o1777)  # as the hint says
    assert machine.check_locks((tmp_path,)).status == "ok"


class TestHub:
    def test_a_token_is_found_and_never_shown(self, tmp_path: Path) -> None:
        (tmp_path / "token").write_text("hf_secret")
        check = machine.check_hub({"HF_HOME": str(tmp_path)})
        assert check.status == "ok"
        assert "a token is there" in check.finding
        shown = machine.check_hub({"HF_TOKEN": "hf_secret", "HOME": str(tmp_path)})
        assert "hf_secret" not in f"{check} {shown}"

    def test_no_token_is_a_warning_with_its_hint(self, tmp_path: Path) -> None:
        check = machine.check_hub({"HOME": str(tmp_path)})
        assert (check.status, check.hint) == ("warn", "run `hf auth login` once")


class TestProbes:
    def test_a_childs_answer_is_read(self) -> None:
        assert "version" in probes.run_probe(probes.SQLITE, {})

    def test_a_child_that_fails_tells_why(self) -> None:
        answer = probes.run_probe("raise ImportError('libcudart.so.13')", {})
        assert answer == {"problem": "ImportError: libcudart.so.13"}

    def test_a_child_that_hangs_is_ended(self) -> None:
        answer = probes.run_probe("while True: pass", {}, deadline_s=0.2)
        assert answer["slow"]

    def test_the_cards_are_asked(self) -> None:
        answer = probes.probe_cards({"WORKBENCH_CARDS": "cpu:1GiB"})
        [card] = libraries.reading_from(answer).cards
        assert card.card.uuid == "cpu-0"

    def test_an_entry_that_cannot_be_read_is_a_drivers_finding(self) -> None:
        answer = probes.probe_cards({"WORKBENCH_CARDS": "nonsense"})
        check = libraries.check_driver(libraries.reading_from(answer))
        assert "WORKBENCH_CARDS" in check.finding
        assert "variable" in check.hint


def test_the_doctor_imports_no_heavy_library() -> None:
    heavy = "{'torch', 'ray', 'transformers', 'bitsandbytes', 'textual', 'pynvml'}"
    code = f"import sys, workbench.doctor; sys.exit(bool({heavy} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_missing_kernels_of_some_models_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    there = {"fla", "causal_conv1d"}
    monkeypatch.setattr(machine, "find_spec", lambda name: name if name in there else None)
    check = machine.check_kernels()
    assert check.status == "ok"
    assert check.finding.startswith("without mamba-ssm: models with linear attention or")
    there.add("mamba_ssm")
    assert machine.check_kernels().finding == "flash-linear-attention, causal-conv1d, mamba-ssm"


@pytest.mark.slow
def test_every_check_of_this_machine_is_reported(tmp_path: Path) -> None:
    from workbench.doctor import run_checks

    told = [check.name for check in run_checks(home=Home(tmp_path))]
    wanted = {"python", "home", "disk", "temp folder", "terminal", "hugging face", "sqlite"}
    assert wanted | {"ray", "torch", "bitsandbytes", "driver", "model kernels"} <= set(told)
