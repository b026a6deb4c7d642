# cmake --install: bin/regroup, the libraries, their headers and find_package(Regroup).
