"""GPU inventory: what real nodes and machines published, read; and strangers' labels, survived."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from slm_operator.core.accelerator_tools import TOOLS, read_machine
from slm_operator.core.accelerators import build_inventory
from slm_operator.core.inventory import SHOWN_LENGTH, Accelerator, Inventory
from slm_operator.core.plan import Manifest

GOLDEN = Path(__file__).parents[2] / "golden" / "nodes"
CLUSTER = yaml.safe_load((GOLDEN / "cluster.yaml").read_text())
MACHINES = yaml.safe_load((GOLDEN / "machine.yaml").read_text())
MIB = 2**20
NAMES = {"deviceClass": "device_class", "sharedBy": "shared_by"}
SIZES = {"memoryMiB": ("memory_bytes", MIB), "freeMiB": ("free_bytes", MIB), "freeBytes": ("free_bytes", 1)}


def build_node(record: dict[str, Any], name: str = "node-1") -> Manifest:
    return {
        "metadata": {"name": name, "labels": record["labels"]},
        "status": {"allocatable": record["allocatable"]},
    }


def build_slices(record: dict[str, Any], name: str = "node-1") -> list[Manifest]:
    return [
        {"spec": {**spec, "nodeName": name, "pool": {**spec["pool"], "name": name}}}
        for spec in record.get("slices", [])
    ]


def expect(record: dict[str, Any]) -> list[Accelerator]:
    devices = []
    for item in record["expected"]:
        fields = {NAMES.get(key, key): value for key, value in item.items() if key not in SIZES}
        sizes = {SIZES[key][0]: value * SIZES[key][1] for key, value in item.items() if key in SIZES}
        devices.append(Accelerator(**{"product": "", **fields, **sizes}))
    return sorted(devices)


def read_devices(inventory: Inventory) -> list[Accelerator]:
    return [item for kind in inventory.kinds for item in kind.accelerators]


@pytest.mark.parametrize("record", CLUSTER, ids=lambda record: record["node"])
def test_what_real_nodes_published_is_read(record: dict[str, Any]) -> None:
    inventory = build_inventory([build_node(record)], build_slices(record), by_claim=True)
    assert read_devices(inventory) == expect(record)
    for note in record.get("notes", []):
        assert any(note in told for told in inventory.notes), inventory.notes
    assert bool(inventory.notes) == bool(record.get("notes"))


@pytest.mark.parametrize("record", MACHINES, ids=lambda record: record["machine"])
def test_what_tools_printed_on_real_machines_is_read(record: dict[str, Any]) -> None:
    inventory = read_machine(record["outputs"], memory_bytes=2**34, cpus=8)
    assert read_devices(inventory) == expect(record)
    assert inventory.notes == ()


def test_every_record_names_its_source_and_there_are_enough() -> None:
    assert all(record["source"].startswith("https://") for record in [*CLUSTER, *MACHINES])
    assert len({record["node"] for record in CLUSTER}) >= 10


def test_equal_nodes_are_one_kind_with_the_memory_of_the_smallest() -> None:
    first, second, third = (build_node(CLUSTER[1], name) for name in ("b", "a", "c"))
    second["status"]["allocatable"] = {**CLUSTER[1]["allocatable"], "memory": "2113411000Ki"}
    third["status"]["allocatable"] = {**CLUSTER[1]["allocatable"], "memory": "64Gi"}
    kinds = build_inventory([first, second, third]).kinds
    assert [(kind.nodes, kind.memory_bytes) for kind in kinds] == [
        (("a", "b"), 2113411000 * 1024),
        (("c",), 64 * 2**30),
    ]
    assert kinds[0].describe(kinds[0].accelerators[0]) == "8 x NVIDIA H100-80GB-HBM3 with 79.65 GiB (2 nodes)"
    assert kinds[1].describe() == "CPU and 64.00 GiB (c)"


def test_what_a_node_offers_in_both_ways_counts_once_as_the_device_plugins_unless_a_class_is_asked_for() -> None:
    record = next(item for item in CLUSTER if "AMD's DRA driver" in item["node"])
    nodes, slices = [build_node(record)], build_slices(record)
    by_resource, by_claim = (build_inventory(nodes, slices, by_claim=each) for each in (False, True))
    assert [(item.count, item.resource, item.source) for item in read_devices(by_resource)] == [
        (2, "amd.com/gpu", "amd.com labels")
    ]
    assert [(item.count, item.device_class, item.source) for item in read_devices(by_claim)] == [
        (2, "gpu.amd.com", "ResourceSlice")
    ]


@pytest.mark.parametrize(
    ("change", "note"),
    [
        ({"spec": {"unschedulable": True}}, "Node n is cordoned."),
        ({"status": {"conditions": [{"type": "Ready", "status": "Unknown"}]}}, "Node n is not ready."),
    ],
)
def test_nodes_that_take_no_pods_are_left_out_with_a_note(change: Manifest, note: str) -> None:
    inventory = build_inventory([{"metadata": {"name": "n"}, **change}])
    assert inventory == Inventory((), (note,))


@pytest.mark.parametrize(
    ("labels", "note"),
    [
        ({"nvidia.com/gpu.memory": "lots"}, "nvidia.com/gpu.memory is 'lots', which is no number of MiB"),
        ({"nvidia.com/gpu.memory": "85899345920"}, "nvidia.com/gpu.memory is '85899345920', which is no number of MiB"),
        ({"nvidia.com/gpu.memory": "-1"}, "nvidia.com/gpu.memory is '-1', which is no number of MiB"),
        ({"nvidia.com/gpu.product": "A100-MIG-INVALID"}, "MIG strategy is single, but its partitions are of several"),
    ],
)
def test_labels_that_make_no_sense_become_a_note_and_unknown_memory(labels: dict[str, str], note: str) -> None:
    node = {"metadata": {"name": "n", "labels": labels}, "status": {"allocatable": {"nvidia.com/gpu": "2"}}}
    inventory = build_inventory([node])
    assert [(item.count, item.memory_bytes) for item in read_devices(inventory)] == [(2, 0)]
    assert any(note in told and told.startswith("Node n: ") for told in inventory.notes), inventory.notes


def test_amd_devices_of_two_sizes_count_as_the_smaller() -> None:
    labels = {"beta.amd.com/gpu.vram.16G": "1", "beta.amd.com/gpu.vram.32G": "1"}
    node = {"metadata": {"name": "n", "labels": labels}, "status": {"allocatable": {"amd.com/gpu": "2"}}}
    inventory = build_inventory([node])
    assert read_devices(inventory)[0].memory_bytes == 16 * 2**30
    assert inventory.notes == (
        "Node n: its AMD GPUs differ in memory: the smallest counts, as a pod cannot choose among them.",
    )


def test_shares_of_one_device_and_mig_instances_do_not_work_together() -> None:
    by_name = {record["node"]: read_devices(build_inventory([build_node(record)])) for record in CLUSTER}
    shared = next(devices for name, devices in by_name.items() if "ten shares" in name)
    mig = next(devices for name, devices in by_name.items() if "strategy mixed" in name)
    whole = next(devices for name, devices in by_name.items() if "eight H100" in name)
    assert [[item.devices for item in devices] for devices in (shared, mig, whole)] == [[1], [1, 1], [8]]


def test_only_the_newest_generation_of_a_pool_counts_and_missing_slices_are_told() -> None:
    def build_slice(generation: int, memory: str) -> Manifest:
        device = {"name": "gpu-0", "capacity": {"memory": {"value": memory}}}
        pool = {"name": "n", "generation": generation, "resourceSliceCount": 2}
        return {"spec": {"driver": "gpu.nvidia.com", "nodeName": "n", "pool": pool, "devices": [device]}}

    inventory = build_inventory([{"metadata": {"name": "n"}}], [build_slice(1, "8Gi"), build_slice(2, "16Gi")])
    assert [item.memory_bytes for item in read_devices(inventory)] == [16 * 2**30]
    assert inventory.notes == ("Pool n of gpu.nvidia.com has 1 of 2 ResourceSlices: its devices are not all known.",)


def test_devices_that_are_tainted_or_of_no_single_node_are_left_out_with_a_note() -> None:
    tainted = {"name": "gpu-0", "taints": [{"key": "xid", "effect": "NoExecute"}]}
    spec = {"driver": "gpu.nvidia.com", "pool": {"name": "p"}}
    slices: list[Manifest] = [
        {"spec": {**spec, "nodeName": "n", "devices": [tainted]}},
        {"spec": {**spec, "allNodes": True, "devices": [{"name": "gpu-1"}]}},
        {"spec": {**spec, "pool": {"name": "gone"}, "nodeName": "gone", "devices": [{"name": "gpu-2"}]}},
    ]
    inventory = build_inventory([{"metadata": {"name": "n"}}], slices)
    assert read_devices(inventory) == []
    assert inventory.notes == (
        "Devices are published for node gone, which does not exist.",
        "Devices that more than one node can reach are left out: an engine's GPUs must be of its node.",
        "Node n: device gpu-0 is tainted by its driver and left out.",
    )


def test_a_device_that_several_backends_list_counts_once() -> None:
    text = """Available devices:
  CUDA0: NVIDIA GeForce RTX 3090 (24135 MiB, 23500 MiB free)
  Vulkan0: NVIDIA GeForce RTX 3090 (24576 MiB, 24000 MiB free)
  Vulkan1: AMD Radeon RX 7900 XTX (24560 MiB, 24000 MiB free)
"""
    found = read_devices(read_machine({"llama.cpp": text}, memory_bytes=2**34, cpus=8))
    assert [(str(item), item.count, item.source) for item in found] == [
        ("AMD Radeon RX 7900 XTX", 1, "llama.cpp Vulkan"),
        ("NVIDIA GeForce RTX 3090", 1, "llama.cpp CUDA"),
    ]


@pytest.mark.parametrize(
    ("tool", "text", "note"),
    [
        (
            "nvidia-smi",
            "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver.",
            "is not understood",
        ),
        ("nvidia-smi", "No devices were found", "nvidia-smi: line 'No devices were found' is not understood."),
        ("rocm-smi", "ERROR: no amdgpu", "rocm-smi: 'ERROR: no amdgpu' is no JSON."),
        ("amd-smi", "{]", "amd-smi: '{]' is no JSON."),
        ("llama.cpp", "error: invalid argument: --list-devices", "llama.cpp: no list of devices is printed."),
    ],
)
def test_output_that_is_not_understood_becomes_a_note(tool: str, text: str, note: str) -> None:
    inventory = read_machine({tool: text}, memory_bytes=2**34, cpus=8)
    assert read_devices(inventory) == []
    assert len(inventory.notes) == 1
    assert note in inventory.notes[0]


MORE_KEYS = ["nvidia.com/mig-1c.3g.20gb.count", "nvidia.com/mig-1g.23gb.me", "nvidia.com/gpu.shared"]
KEYS = st.sampled_from(
    sorted({*MORE_KEYS, *(key for record in CLUSTER for key in [*record["labels"], *record["allocatable"]])})
)
VALUES = st.one_of(
    st.text(max_size=80),
    st.integers(),
    st.none(),
    st.sampled_from(["1", "8", "NaN", "-1", "1e9999999", "9e999999E", "\u0661"]),
)
JSON: st.SearchStrategy[Any] = st.recursive(
    VALUES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner, max_size=3)
)
NODES = st.fixed_dictionaries(
    {
        "metadata": st.fixed_dictionaries({"name": st.text(max_size=3), "labels": st.dictionaries(KEYS, VALUES)}),
        "spec": JSON,
        "status": st.fixed_dictionaries({"allocatable": st.dictionaries(KEYS, VALUES) | JSON, "conditions": JSON}),
    }
)
DEVICES = st.fixed_dictionaries(
    {"name": JSON, "attributes": st.dictionaries(st.sampled_from(["type", "productName", "uuid"]), JSON) | JSON},
    optional={"capacity": st.fixed_dictionaries({"memory": JSON}) | JSON, "basic": JSON, "taints": JSON},
)
SLICES = st.fixed_dictionaries(
    {
        "spec": st.fixed_dictionaries(
            {
                "driver": st.sampled_from(["gpu.nvidia.com", "gpu.intel.com", "x"]),
                "devices": st.lists(DEVICES, max_size=3),
            },
            optional={"nodeName": st.text(max_size=3), "pool": JSON},
        )
    }
)


@settings(max_examples=50)
@given(st.lists(NODES, max_size=5), st.lists(SLICES, max_size=3), st.randoms())
def test_nothing_that_is_published_raises_and_order_does_not_matter(
    nodes: list[Manifest], slices: list[Manifest], random: Any
) -> None:
    inventory = build_inventory(nodes, slices)
    nodes, slices = list(nodes), list(slices)
    random.shuffle(nodes)
    random.shuffle(slices)
    assert build_inventory(nodes, slices) == inventory
    for item in read_devices(inventory):
        assert item.count > 0
        assert item.memory_bytes >= 0
        assert len(item.product) <= SHOWN_LENGTH


@settings(max_examples=50)
@given(st.sampled_from(sorted(TOOLS)), st.one_of(st.text(), JSON.map(yaml.safe_dump), JSON.map(repr)))
def test_nothing_that_a_tool_prints_raises(tool: str, text: str) -> None:
    inventory = read_machine({tool: text}, memory_bytes=2**34, cpus=8)
    assert len(inventory.kinds) == 1
