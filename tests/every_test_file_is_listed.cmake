# Fails when a file of tests below this folder is not named in its CMakeLists.txt.
file(READ ${CMAKE_CURRENT_LIST_DIR}/CMakeLists.txt listed)
file(GLOB_RECURSE files RELATIVE ${CMAKE_CURRENT_LIST_DIR} ${CMAKE_CURRENT_LIST_DIR}/*_test.cpp
     ${CMAKE_CURRENT_LIST_DIR}/test_*.py)
foreach(file IN LISTS files)
  string(FIND "${listed}" "\n  ${file}\n" place)
  if(place EQUAL -1)
    message(SEND_ERROR "tests/${file} is not listed in tests/CMakeLists.txt, so it never runs.")
  endif()
endforeach()
