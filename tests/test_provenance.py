"""A run says where it came from, and gives the credit its sources ask for."""

from train.provenance import PACKAGES, attribution, environment

SOURCES = {
    "mine": {"licence": "yours", "attribution": None},
    "leads": {"licence": "CC-BY-SA-4.0", "attribution": "Text from Wikipedia, changed."},
}


def test_the_environment_names_versions_devices_and_code():
    found = environment()
    assert {"python", "git", "command", "devices", *PACKAGES} <= found.keys()
    assert found["devices"].startswith("8 x cpu")
    assert all(isinstance(value, str) and value for value in found.values())


def test_every_source_is_listed_and_credit_is_given_where_it_is_due():
    page = attribution(SOURCES)
    assert "## mine\n\nLicence: yours\n" in page
    assert "## leads\n\nLicence: CC-BY-SA-4.0\n\nText from Wikipedia, changed.\n" in page
