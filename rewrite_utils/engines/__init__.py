"""The engines behind `rewrite_utils.llm.Engine`; open one with `rewrite_utils.llm.open_engine`."""
