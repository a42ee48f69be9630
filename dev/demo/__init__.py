"""`make demo`: the whole product on one machine, with nothing but what this repository brings."""
