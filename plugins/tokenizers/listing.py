"""A kernel as one of Python's own functions: from a str to a list of numbers.

Making bytes, a call through ctypes and making a list take several times as long as the kernel does
on a short text. This function is written in CPython's stable interface, which stays as it is from
one version to the next, and holds the interpreter's lock: it is for short texts.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import cache

import numpy as np

from infinisa.runtime.jit.cache import remembered
from infinisa.runtime.jit.code.ir import Code, link, to_object

LISTED = "listed"
ONE_ARGUMENT = 8
"""METH_O of CPython."""

SOURCE = f"""
declare ptr @PyLong_AsVoidPtr(ptr)
declare ptr @PyUnicode_AsUTF8AndSize(ptr, ptr)
declare ptr @PyLong_FromLongLong(i64)
declare ptr @PyList_New(i64)
declare i32 @PyList_SetItem(ptr, i64, ptr)
declare void @Py_DecRef(ptr)

; self is the address of two words: the kernel's and its frame's. The frame's third word is that of
; the ids.
define ptr @{LISTED}(ptr %self, ptr %text) {{
  %size.at = alloca i64
  %words = call ptr @PyLong_AsVoidPtr(ptr %self)
  %kernel = load ptr, ptr %words
  %frame.at = getelementptr i64, ptr %words, i64 1
  %frame = load ptr, ptr %frame.at
  %ids.at = getelementptr i64, ptr %frame, i64 2
  %ids = load ptr, ptr %ids.at
  %bytes = call ptr @PyUnicode_AsUTF8AndSize(ptr %text, ptr %size.at)
  %failed = icmp eq ptr %bytes, null
  br i1 %failed, label %fail, label %run
run:
  %size = load i64, ptr %size.at
  %int = trunc i64 %size to i32
  %count = call i64 %kernel(ptr %frame, ptr %bytes, i32 %int)
  %odd = icmp slt i64 %count, 0
  br i1 %odd, label %say, label %make
say:
  %why = call ptr @PyLong_FromLongLong(i64 %count)
  ret ptr %why
make:
  %list = call ptr @PyList_New(i64 %count)
  %none = icmp eq ptr %list, null
  br i1 %none, label %fail, label %next
next:
  %k = phi i64 [0, %make], [%k.next, %put]
  %more = icmp slt i64 %k, %count
  br i1 %more, label %item, label %done
item:
  %id.at = getelementptr i32, ptr %ids, i64 %k
  %id = load i32, ptr %id.at
  %wide = sext i32 %id to i64
  %number = call ptr @PyLong_FromLongLong(i64 %wide)
  %missing = icmp eq ptr %number, null
  br i1 %missing, label %drop, label %put
put:
  %ignored = call i32 @PyList_SetItem(ptr %list, i64 %k, ptr %number)
  %k.next = add i64 %k, 1
  br label %next
drop:
  call void @Py_DecRef(ptr %list)
  br label %fail
fail:
  ret ptr null
done:
  ret ptr %list
}}
"""


class Definition(ctypes.Structure):
    """PyMethodDef of CPython."""

    _fields_ = (
        ("name", ctypes.c_char_p),
        ("function", ctypes.c_void_p),
        ("flags", ctypes.c_int),
        ("documentation", ctypes.c_char_p),
    )


class Listing:
    """The kernel at an address on its frame as such a function; what it needs lives as long."""

    def __init__(self, kernel: int, frame: int) -> None:
        self.code = code()
        self.words = np.array([kernel, frame], np.int64)
        address = self.code.addresses[LISTED]
        self.definition = Definition(LISTED.encode(), address, ONE_ARGUMENT, None)
        new = ctypes.pythonapi.PyCFunction_NewEx
        new.restype = ctypes.py_object
        new.argtypes = ctypes.POINTER(Definition), ctypes.py_object, ctypes.c_void_p
        found = new(ctypes.byref(self.definition), int(self.words.ctypes.data), None)
        self.function: Callable[[str], list[int] | int] = found


@cache
def code() -> Code:
    image = remembered(SOURCE, "tokenizer", lambda: to_object(SOURCE, optimise=True))
    return link([image], [LISTED])
