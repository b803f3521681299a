"""One schema for files that differ harmlessly, and rows in it; what differs otherwise is named.

Harmless is what loses nothing: the order of columns, nullability, widths of integers and floats, a column without
values, dictionaries, large and view variants of text and bytes, the order of a struct's fields.
"""

from __future__ import annotations

from collections.abc import Callable

import pyarrow as pa
import pyarrow.types as pt

from raydvae.data.columns import is_list, storage_of
from raydvae.errors import DataError

Names = Callable[[pa.Schema, str], tuple[str, ...] | None]
EXTENSION = b"ARROW:extension:name", b"ARROW:extension:metadata"


def storable(schema: pa.Schema) -> pa.Schema:
    """Return the schema that files of ``schema`` are written in.

    Types that Python packages register are what they are where these are not loaded: Ray's and Hugging Face's tensors
    are lists in every process, and their names stay in the fields' metadata, and so in the files.
    """
    fields = []
    for field in schema:
        if isinstance(field.type, pa.ExtensionType):
            names = field.type.extension_name.encode(), field.type.__arrow_ext_serialize__()
            metadata = dict(field.metadata or {}) | dict(zip(EXTENSION, names, strict=True))
            field = pa.field(field.name, field.type.storage_type, field.nullable, metadata)
        if not (pt.is_string_view(field.type) or pt.is_binary_view(field.type)):  # pyarrow cannot write inner views
            field = field.with_type(_without_views(field.type))
        fields.append(field)
    return pa.schema(fields, schema.metadata)


def in_memory(schema: pa.Schema) -> pa.Schema:
    """Return the schema that rows have in memory: views, which Arrow cannot take rows of, are plain there."""
    return pa.schema([field.with_type(_without_views(field.type)) for field in schema], schema.metadata)


def plain(rows: pa.Array) -> pa.Array:
    """Return ``rows`` without an extension type and without views."""
    rows = storage_of(rows)
    return _cast(rows, _without_views(rows.type))


def conform(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """Return ``table`` with the columns of ``schema``, in its order and types; metadata stays the table's."""
    if table.schema.equals(schema):
        return table
    if table.schema.names != schema.names:
        table = table.select(schema.names)
    columns = [
        pa.chunked_array([_cast(chunk, field.type) for chunk in column.chunks], field.type)
        for column, field in zip(table.columns, schema, strict=True)
    ]
    return pa.Table.from_arrays(columns, schema=schema.with_metadata(table.schema.metadata))


def merge(first: pa.Schema, other: pa.Schema, owners: dict[str, str], file: str, uri: str) -> pa.Schema:
    """Return the schema that holds the rows of both; metadata is the first's.

    ``owners`` names by column the file that gave ``first`` its type, and is kept up; ``file`` is that of ``other``, and
    ``uri`` their folder. Raises `DataError` that names the column, both types and what to cast.
    """
    if sorted(first.names) != sorted(other.names):
        raise DataError(f"{uri}: {_missing(first, other, next(iter(owners.values())), file)}")
    order = first.names
    if len(set(order)) < len(order):
        if order != other.names:
            raise DataError(
                f"{uri}: {file} has its columns in another order than {owners[order[0]]}, and several have one name: "
                f"{', '.join(other.names)}. Give each a name of its own."
            )
        theirs = list(other)
    else:
        theirs = [other.field(name) for name in order]
    fields = []
    for mine, its in zip(first, theirs, strict=True):
        kind = widest(mine.type, its.type)
        if kind is None:
            raise DataError(
                f"{uri}: column {mine.name!r} is {mine.type} in {owners[mine.name]} and {its.type} in {file}; a "
                "column has one type in all files of a data set. Cast one of them to the other's, as by "
                f"column.cast({_spelled(mine.type)}) in pyarrow, and write its file again."
            )
        if not kind.equals(mine.type):
            owners[mine.name] = file
        fields.append(pa.field(mine.name, kind, mine.nullable or its.nullable, mine.metadata or its.metadata))
    return pa.schema(fields, first.metadata)


def same_names(
    label: str, first: pa.Schema, other: pa.Schema, files: tuple[str, str], uri: str, names: Names
) -> pa.Schema:
    """Return ``first``, with the class names of ``other`` where it has none; ``names`` reads them of a schema.

    Raises `DataError` where both name classes and differ: equal numbers would mean different classes.
    """
    mine, theirs = names(first, label), names(other, label)
    if theirs is None or mine == theirs:
        return first
    if mine is None:
        return first.with_metadata(dict(first.metadata or {}) | {b"huggingface": other.metadata[b"huggingface"]})
    at = next((at for at, (a, b) in enumerate(zip(mine, theirs, strict=False)) if a != b), min(len(mine), len(theirs)))
    raise DataError(
        f"{uri}: the classes of column {label!r} are named otherwise in {files[1]} than in {files[0]}: class {at} is "
        f"{_at(theirs, at)} in the one and {_at(mine, at)} in the other, so equal numbers would mean different classes "
        f"({', '.join(theirs[:20])} against {', '.join(mine[:20])}). Write one file anew with the labels and names of "
        "the other, or give the files one by one."
    )


def _at(names: tuple[str, ...], at: int) -> str:
    return repr(names[at]) if at < len(names) else "missing"


def _missing(first: pa.Schema, other: pa.Schema, a: str, b: str) -> str:
    """Return what one schema has and the other has not, and what to do."""
    for has, lacks, one, two in ((first, other, a, b), (other, first, b, a)):
        for name in has.names:
            if has.names.count(name) > lacks.names.count(name):
                kind = has.field(has.names.index(name)).type
                return (
                    f"{b} has other columns than {a}: {one} has a column {name!r} ({kind}) and {two} has none. Drop it "
                    f"in the one, or add it to the other, as by table.append_column({name!r}, "
                    f"pa.nulls(len(table), {_spelled(kind)})) in pyarrow."
                )
    raise AssertionError("the names are the same")


def _spelled(kind: pa.DataType) -> str:
    """Return a type as one writes it in Python, or where to find it."""
    name = {"double": "float64", "float": "float32", "halffloat": "float16", "bool": "bool_"}.get(str(kind), str(kind))
    return f"pa.{name}()" if hasattr(pa, name) else "the other file's type"


def widest(one: pa.DataType, two: pa.DataType) -> pa.DataType | None:
    """Return the type that holds the values of both and loses nothing, or None."""
    if one.equals(two):
        return one
    if pt.is_null(one) or pt.is_null(two):
        return two if pt.is_null(one) else one
    if pt.is_dictionary(one) or pt.is_dictionary(two):
        return _dictionaries(one, two)
    if isinstance(one, pa.BaseExtensionType) or isinstance(two, pa.BaseExtensionType):
        return None
    if pt.is_integer(one) and pt.is_integer(two):
        return _integers(one, two)
    numbers = [kind for kind in (one, two) if pt.is_floating(kind) or pt.is_integer(kind)]
    if len(numbers) == 2:
        exact = all(pt.is_floating(kind) or kind.bit_width <= 32 for kind in numbers)
        whole = any(pt.is_integer(kind) for kind in numbers)
        bits = max(kind.bit_width for kind in numbers)
        return (pa.float64() if whole or bits == 64 else pa.float32()) if exact else None
    for family in (_text, _binary):
        if family(one) and family(two):
            return max(family(one), family(two), key=lambda kind: str(kind).startswith("large_"))
    if pt.is_decimal(one) and pt.is_decimal(two) and one.scale == two.scale:
        return one if (one.bit_width, one.precision) >= (two.bit_width, two.precision) else two
    if pt.is_struct(one) and pt.is_struct(two):
        return _structs(one, two)
    if is_list(one) and is_list(two):
        item = widest(one.value_type, two.value_type)
        if item is None:
            return None
        if pt.is_fixed_size_list(one) and pt.is_fixed_size_list(two) and one.list_size == two.list_size:
            return pa.list_(item, one.list_size)
        large = pt.is_large_list(one) or pt.is_large_list(two)
        return pa.large_list(item) if large else pa.list_(item)
    return None


def _integers(one: pa.DataType, two: pa.DataType) -> pa.DataType | None:
    signed = pt.is_signed_integer(one) or pt.is_signed_integer(two)
    bits = max(kind.bit_width * (2 if signed and not pt.is_signed_integer(kind) else 1) for kind in (one, two))
    return getattr(pa, f"{'' if signed else 'u'}int{bits}")() if bits <= 64 else None


def _text(kind: pa.DataType) -> pa.DataType | None:
    """Return the text type that widens to, or None for another kind."""
    if pt.is_large_string(kind):
        return pa.large_string()
    return pa.string() if pt.is_string(kind) or pt.is_string_view(kind) else None


def _binary(kind: pa.DataType) -> pa.DataType | None:
    if pt.is_large_binary(kind):
        return pa.large_binary()
    return pa.binary() if pt.is_binary(kind) or pt.is_binary_view(kind) or pt.is_fixed_size_binary(kind) else None


def _dictionaries(one: pa.DataType, two: pa.DataType) -> pa.DataType | None:
    bare = [kind.value_type if pt.is_dictionary(kind) else kind for kind in (one, two)]
    value = widest(*bare)
    if value is None or not (pt.is_dictionary(one) and pt.is_dictionary(two)):
        return value
    index = _integers(one.index_type, two.index_type)
    return pa.dictionary(index, value, one.ordered and two.ordered) if index else None


def _structs(one: pa.StructType, two: pa.StructType) -> pa.DataType | None:
    if sorted(one.names) != sorted(two.names) or len(set(one.names)) < len(one.names):
        return None
    fields = []
    for mine in one:
        theirs = two.field(mine.name)
        kind = widest(mine.type, theirs.type)
        if kind is None:
            return None
        fields.append(pa.field(mine.name, kind, mine.nullable or theirs.nullable, mine.metadata))
    return pa.struct(fields)


def _without_views(kind: pa.DataType) -> pa.DataType:
    if pt.is_string_view(kind):
        return pa.large_string()
    if pt.is_binary_view(kind):
        return pa.large_binary()
    if pt.is_dictionary(kind):
        return pa.dictionary(kind.index_type, _without_views(kind.value_type), kind.ordered)
    if pt.is_struct(kind):
        return pa.struct([field.with_type(_without_views(field.type)) for field in kind])
    if pt.is_map(kind):
        return pa.map_(_field(kind.key_field), _field(kind.item_field), kind.keys_sorted)
    if pt.is_fixed_size_list(kind):
        return pa.list_(_field(kind.value_field), kind.list_size)
    if pt.is_large_list(kind):
        return pa.large_list(_field(kind.value_field))
    return pa.list_(_field(kind.value_field)) if pt.is_list(kind) else kind


def _field(field: pa.Field) -> pa.Field:
    return field.with_type(_without_views(field.type))


def _cast(rows: pa.Array, kind: pa.DataType) -> pa.Array:
    if rows.type.equals(kind):
        return rows
    if isinstance(rows, pa.ExtensionArray) and not isinstance(kind, pa.BaseExtensionType):
        return _cast(rows.storage, kind)
    if pt.is_struct(kind) and pt.is_struct(rows.type):
        columns = dict(zip(rows.type.names, rows.flatten(), strict=True))
        parts = [_cast(columns[field.name], field.type) for field in kind]
        return pa.StructArray.from_arrays(parts, fields=list(kind), mask=rows.is_null())
    if pt.is_dictionary(rows.type) and not pt.is_dictionary(kind):
        return rows.dictionary_decode().cast(kind)
    return rows.cast(kind)
