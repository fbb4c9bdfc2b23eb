"""The intermediate representation: graph, types, symbolic dimensions, and the table of operators (ops/)."""
