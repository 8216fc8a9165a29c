from nexus_tasks.exporters.short_memory import ShortMemory


def test_a_value_is_remembered_for_its_life_and_no_longer() -> None:
    now = 100.0
    memory = ShortMemory(life=10, clock=lambda: now)
    assert memory.get("a") is None
    assert memory.put("a", "1") == "1"
    now = 109.9
    assert memory.get("a") == "1"
    now = 110.0
    assert memory.get("a") is None


def test_everything_can_be_forgotten() -> None:
    memory = ShortMemory()
    memory.put("a", "1")
    memory.forget()
    assert memory.get("a") is None
