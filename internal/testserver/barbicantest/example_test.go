package barbicantest_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"

	"github.com/luksplug/luksplug/internal/testserver/barbicantest"
)

func Example() {
	server := httptest.NewServer(&barbicantest.Server{})
	defer server.Close()
	request, err := http.NewRequest(http.MethodGet, server.URL+"/v1/secrets/0a81f5b2-8403-4b23-88d6-21ccc2f80d6f", nil)
	if err != nil {
		panic(err)
	}
	request.Header.Set("X-Project-Id", "p")
	request.Header.Set("Accept", "application/json")
	answer, err := server.Client().Do(request)
	if err != nil {
		panic(err)
	}
	_ = answer.Body.Close() // only its status matters
	fmt.Println(answer.Status)
	// Output: 404 Not Found
}
