from nexus_tasks.exporters.labarchives_signature import signature, signed


def test_the_example_of_the_api_notebook_is_signed_alike() -> None:
    made = signature("0234wedkfjrtfd34er", "entry_attachment", 264433207000, "1234567890")
    assert made == "mT7pS+KgqlNseR0bo4YLQOVIsgOugMWzlQGllInXS25Q7VpA6lRmL0nUq/UUdrlF+WV7POYE1vcwvN/pnac7bw=="


def test_the_password_is_not_among_the_parameters() -> None:
    parameters = signed("key", "add_entry", 1, "password")
    assert set(parameters) == {"akid", "expires", "sig"}
    assert "password" not in parameters.values()
