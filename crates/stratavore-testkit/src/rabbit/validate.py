"""Holds received messages against the JSON Schemas of their kinds.

Standard input is a line of JSON: the directory of schemas, and the file of a consumer. Prints a line for
each message that does not fit, and `N held` at the end.
"""

import json
import pathlib
import sys

import jsonschema

settings = json.loads(sys.stdin.readline())
schemas = {
    "stratavore." + path.stem: jsonschema.Draft202012Validator(json.loads(path.read_text()))
    for path in pathlib.Path(settings["schemas"]).glob("*.json")
}
for schema in schemas.values():
    schema.check_schema(schema.schema)
held = 0
for line in open(settings["file"], encoding="utf-8"):
    envelope = json.loads(line)["envelope"]
    schema = schemas.get(envelope.get("type"))
    faults = [f.message for f in schema.iter_errors(envelope)] if schema else ["no schema"]
    held += not faults
    for fault in faults:
        print(f"{envelope.get('type')} {envelope.get('id')}: {fault}")
print(f"{held} held")
