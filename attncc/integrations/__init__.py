"""attncc inside other libraries; each file is imported on request and needs the library it is named after."""
