"""Figures, pages and terminal output of finished studies, from their stored tables alone."""

from isogrid.report.comparison import compare
from isogrid.report.page import build_report
from isogrid.report.terminal import print_summary

__all__ = ["build_report", "compare", "print_summary"]
